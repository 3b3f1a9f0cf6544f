terraform {
  required_providers {
    matview = {
      source = "matview/matview"
    }
  }
}

variable "database_password" {
  type      = string
  sensitive = true
}

provider "matview" {
  host     = "db.example.com"
  port     = 5432
  database = "app"
  username = "terraform"
  password = var.database_password
  sslmode  = "verify-full"
}

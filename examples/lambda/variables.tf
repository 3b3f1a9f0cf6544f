variable "name" {
  description = "Name of the function and of what belongs to it."
  type        = string
  default     = "matview-refresh"
}

variable "filename" {
  description = "The zip with matview-exporter as bootstrap and the certificates of RDS; see README.md."
  type        = string
}

variable "architecture" {
  description = "What the program in the zip is built for: arm64 or x86_64 (Go's amd64)."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "Must be arm64 or x86_64."
  }
}

variable "vpc_id" {
  description = "The VPC of the database."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets from which the database can be reached. They need no way out: nothing else is called."
  type        = list(string)
}

variable "database_security_group_id" {
  description = "The security group of the database, which is opened for the function."
  type        = string
}

variable "database" {
  description = "Where to log in, and as whom."
  type = object({
    host   = string
    port   = optional(number, 5432)
    name   = string
    user   = string
    schema = optional(string, "public") # of the tables of matview
  })
}

variable "database_resource_id" {
  description = "The resource_id of the instance, or the cluster_resource_id of an Aurora cluster, as in db-ABCDEFGHIJKL01234. The function then logs in with IAM tokens and needs no password."
  type        = string
  default     = null
}

variable "password" {
  description = "The password, where no database_resource_id is given. It stands in the function's environment and in Terraform's state."
  type        = string
  default     = null
  sensitive   = true
}

variable "schedule" {
  description = "How often the function runs: more often than anything is due, since how old the data is, is published only then."
  type        = string
  default     = "rate(5 minutes)"
}

variable "event" {
  description = "What the schedule sends: {} refreshes what is due, { views = [\"job_progress\"] } those."
  type        = object({ views = optional(list(string)) })
  default     = {}
}

variable "timeout" {
  description = "Seconds that an invocation may take, 900 at the most. What cannot be refreshed in time is cancelled before that and recorded as failed."
  type        = number
  default     = 300
}

variable "memory_size" {
  description = "Megabytes. The database does the work; 128 are enough for thousands of views."
  type        = number
  default     = 128
}

variable "namespace" {
  description = "The namespace of the metrics in CloudWatch; null publishes none."
  type        = string
  default     = "S3Scanner"
}

variable "dimensions" {
  description = "Dimensions of every metric beside ViewName, such as { Database = \"app\" }."
  type        = map(string)
  default     = {}
}

variable "environment" {
  description = "More variables of matview-exporter, such as MATVIEW_CLOUDWATCH_METRICS."
  type        = map(string)
  default     = {}
}

variable "log_retention_days" {
  description = "How long the log is kept. It holds the metrics too, which CloudWatch has read by then."
  type        = number
  default     = 14
}

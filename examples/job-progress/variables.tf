variable "refresh_every" {
  description = "How often job_progress is refreshed."
  type        = string
  default     = "1m"
}

variable "deletion_protection" {
  description = "Whether terraform destroy refuses to drop the refresh log."
  type        = bool
  default     = true
}

variable "schedules" {
  description = "The matview_refresh_schedule resources, by names of your own: { job_progress = matview_refresh_schedule.job_progress }. The keys must be known when Terraform plans, which those of a data source are not at the first apply."
  type = map(object({
    id               = optional(string)
    view             = string
    enabled          = optional(bool)
    every            = optional(string)
    target_staleness = optional(string)
    max_staleness    = optional(string)
  }))

  validation {
    condition     = !anytrue([for key in keys(var.schedules) : can(regex("[^ -~]|[\"\\\\]", key))])
    error_message = "The keys become names of alarms: ASCII, without quotes and backslashes."
  }
}

variable "max_staleness_seconds" {
  description = "Thresholds by the keys of schedules. Needed where a schedule has a cron and no max_staleness."
  type        = map(number)
  default     = {}
}

variable "namespace" {
  description = "The --cloudwatch.namespace of the exporter."
  type        = string
}

variable "dimensions" {
  description = "The --cloudwatch.dimension of the exporter, such as { Database = \"app\" }."
  type        = map(string)
  default     = {}
}

variable "name_prefix" {
  description = "What the names of the alarms start with."
  type        = string
  default     = "matview"
}

variable "publish_minutes" {
  description = "How often freshness is published: 1 by matview-exporter run, 5 by a one-shot run or a Lambda every five minutes."
  type        = number
  default     = 1

  validation {
    condition     = contains([1, 5, 10, 15, 30, 60], var.publish_minutes)
    error_message = "Must be 1, 5, 10, 15, 30 or 60."
  }
}

variable "alarm_actions" {
  description = "ARNs to notify, when an alarm fires and when it is over."
  type        = list(string)
  default     = []
}

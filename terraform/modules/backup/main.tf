variable "bucket" {
  description = "Name of the bucket for Velero's backups."
  type        = string
}

variable "retention_days" {
  description = "For how many days old versions of its objects are kept."
  type        = number
}

resource "terraform_data" "bucket" {
  input            = { name = var.bucket, versioning = "Enabled", retention_days = var.retention_days }
  triggers_replace = [var.bucket]
}

variable "kubernetes_version" {
  description = "Minor version of the control plane. EKS moves one minor version at a time."
  type        = string
  default     = "1.36"

  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "The version must be a minor version, as 1.36."
  }
}

variable "database_enabled" {
  description = "Whether there is a database. Taking it away destroys it."
  type        = bool
  default     = true
}

variable "database_encrypted" {
  description = "Whether the database's storage is encrypted. Another value replaces the database, without its data."
  type        = bool
  default     = true
}

variable "instance_types" {
  description = "Instance types of the node group main."
  type        = list(string)
  default     = ["m6i.2xlarge"]
}

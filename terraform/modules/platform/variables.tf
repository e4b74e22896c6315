variable "environment" {
  description = "Name of the environment."
  type        = string
}

variable "region" {
  description = "Region that all of it is in."
  type        = string
}

variable "kubernetes_version" {
  description = "Minor version of the control plane, and of node groups that name none of their own."
  type        = string
}

variable "network_cidr" {
  description = "Address range of the network."
  type        = string
}

variable "public_access_cidrs" {
  description = "From where the API server is reached."
  type        = list(string)
  default     = ["203.0.113.0/24"]
}

variable "node_groups" {
  description = "Node groups by name."
  type = map(object({
    instance_types     = list(string)
    min                = number
    desired            = number
    max                = number
    kubernetes_version = optional(string)
  }))
}

variable "addons" {
  description = "Add-ons and their versions, besides kube-proxy, which follows the cluster."
  type        = map(string)
}

variable "database" {
  description = "The ledger's database; null: none."
  type = object({
    engine_version = string
    instance_class = string
    encrypted      = bool
    backup_days    = number
  })
}

variable "backup_retention_days" {
  description = "For how many days old versions of backups are kept."
  type        = number
}

variable "name" {
  description = "Name of the cluster."
  type        = string
}

variable "kubernetes_version" {
  description = "Minor version of the control plane."
  type        = string
}

variable "subnets" {
  description = "Identifiers of its subnets."
  type        = list(string)
}

variable "public_access_cidrs" {
  description = "From where the API server is reached."
  type        = list(string)
}

variable "log_types" {
  description = "Logs of the control plane that are kept."
  type        = list(string)
}

resource "terraform_data" "cluster" {
  input = {
    name                = var.name
    version             = var.kubernetes_version
    public_access_cidrs = var.public_access_cidrs
    log_types           = var.log_types
  }
  triggers_replace = [var.name, var.subnets] # EKS cannot change either of a cluster that is there
}

output "name" {
  description = "Name of the cluster."
  value       = terraform_data.cluster.output.name
}

output "id" {
  description = "Identifier of the cluster; another one when it was replaced."
  value       = terraform_data.cluster.id
}

variable "name" {
  description = "Name of the node group."
  type        = string
}

variable "cluster" {
  description = "Identifier of its cluster."
  type        = string
}

variable "kubernetes_version" {
  description = "Minor version of its kubelets: the cluster's, or up to three behind."
  type        = string
}

variable "instance_types" {
  description = "Types of its instances."
  type        = list(string)
}

variable "size" {
  description = "Least, wanted and most nodes."
  type        = object({ min = number, desired = number, max = number })

  validation {
    condition     = var.size.min <= var.size.desired && var.size.desired <= var.size.max
    error_message = "The wanted number of nodes must be from the least to the most."
  }
}

resource "terraform_data" "node_group" {
  input            = { name = var.name, version = var.kubernetes_version, size = var.size }
  triggers_replace = [var.name, var.cluster, var.instance_types] # EKS replaces a node group whose instances are of another type
}

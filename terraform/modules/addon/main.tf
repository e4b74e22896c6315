variable "name" {
  description = "Name of the add-on."
  type        = string
}

variable "cluster" {
  description = "Identifier of its cluster."
  type        = string
}

variable "addon_version" {
  description = "Version of the add-on."
  type        = string
}

resource "terraform_data" "addon" {
  input            = { name = var.name, version = var.addon_version }
  triggers_replace = [var.name, var.cluster]
}

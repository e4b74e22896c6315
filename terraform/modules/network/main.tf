variable "name" {
  description = "Name of the environment."
  type        = string
}

variable "cidr" {
  description = "Address range of the network."
  type        = string

  validation {
    condition     = can(cidrnetmask(var.cidr))
    error_message = "The address range must be in CIDR form, as 10.0.0.0/16."
  }
}

variable "zones" {
  description = "Availability zones, one subnet each."
  type        = list(string)
}

resource "terraform_data" "vpc" {
  input            = { name = var.name, cidr = var.cidr }
  triggers_replace = [var.cidr] # a network cannot change its range
}

resource "terraform_data" "subnet" {
  for_each = { for index, zone in var.zones : zone => cidrsubnet(var.cidr, 8, index + 1) }

  input            = { name = "${var.name}-${each.key}", zone = each.key, cidr = each.value, vpc = terraform_data.vpc.id }
  triggers_replace = [each.key, each.value, terraform_data.vpc.id]
}

output "subnets" {
  description = "Identifiers of the subnets by zone."
  value       = { for zone, subnet in terraform_data.subnet : zone => subnet.id }
}

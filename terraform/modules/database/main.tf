variable "identifier" {
  description = "Name of the database instance."
  type        = string
}

variable "engine_version" {
  description = "Version of PostgreSQL."
  type        = string
}

variable "instance_class" {
  description = "Size of the instance."
  type        = string
}

variable "encrypted" {
  description = "Whether its storage is encrypted. It cannot be changed of a database that is there."
  type        = bool
}

variable "backup_days" {
  description = "For how many days its backups are kept."
  type        = number
}

variable "secret" {
  description = "Name of the secret that holds the owner's password. Not shown in plans."
  type        = string
  sensitive   = true
}

resource "terraform_data" "database" {
  input = {
    identifier     = var.identifier
    engine_version = var.engine_version
    instance_class = var.instance_class
    backup_days    = var.backup_days
  }
  triggers_replace = [var.identifier, var.encrypted]
}

resource "terraform_data" "owner" {
  triggers_replace = [var.secret] # not as input: what a terraform_data puts out is no longer sensitive
}

output "endpoint" {
  description = "Where it is reached."
  value       = "${var.identifier}.db.example.internal:5432"
}

output "cluster_name" {
  description = "Name of the cluster."
  value       = module.cluster.name
}

output "database_endpoint" {
  description = "Where the database is reached; empty without one."
  value       = one(module.database[*].endpoint)
}

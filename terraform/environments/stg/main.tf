module "platform" {
  source = "../../modules/platform"

  environment           = "stg"
  region                = "ap-northeast-1"
  kubernetes_version    = var.kubernetes_version
  network_cidr          = "10.20.0.0/16"
  backup_retention_days = 30

  node_groups = {
    main = {
      instance_types = var.instance_types
      min            = 3
      desired        = 3
      max            = 6
    }
  }

  addons = {
    vpc-cni            = "v1.21.2-eksbuild.3"
    coredns            = "v1.12.4-eksbuild.1"
    aws-ebs-csi-driver = "v1.53.0-eksbuild.1"
  }

  database = !var.database_enabled ? null : {
    engine_version = "17.6"
    instance_class = "db.t4g.large"
    encrypted      = var.database_encrypted
    backup_days    = 7
  }
}

output "cluster_name" {
  description = "Name of the cluster."
  value       = module.platform.cluster_name
}

output "database_endpoint" {
  description = "Where the database is reached; empty without one."
  value       = module.platform.database_endpoint
}

module "platform" {
  source = "../../modules/platform"

  environment           = "lab"
  region                = "ap-northeast-1"
  kubernetes_version    = var.kubernetes_version
  network_cidr          = "10.0.0.0/16"
  backup_retention_days = 30

  node_groups = {
    main = {
      instance_types = var.instance_types
      min            = 6
      desired        = 6
      max            = 10
    }
    batch = {
      instance_types     = ["c7i.2xlarge"]
      min                = 0
      desired            = 0
      max                = 4
      kubernetes_version = "1.35"
    }
  }

  addons = {
    vpc-cni            = "v1.21.2-eksbuild.3"
    coredns            = "v1.12.4-eksbuild.1"
    aws-ebs-csi-driver = "v1.53.0-eksbuild.1"
  }

  database = !var.database_enabled ? null : {
    engine_version = "17.6"
    instance_class = "db.t4g.medium"
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

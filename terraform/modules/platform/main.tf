module "network" {
  source = "../network"

  name  = var.environment
  cidr  = var.network_cidr
  zones = [for letter in ["a", "c", "d"] : "${var.region}${letter}"]
}

module "cluster" {
  source = "../cluster"

  name                = var.environment
  kubernetes_version  = var.kubernetes_version
  subnets             = values(module.network.subnets)
  public_access_cidrs = var.public_access_cidrs
  log_types           = ["api", "audit", "authenticator"]
}

module "node_group" {
  source   = "../node_group"
  for_each = var.node_groups

  name               = each.key
  cluster            = module.cluster.id
  kubernetes_version = coalesce(each.value.kubernetes_version, var.kubernetes_version)
  instance_types     = each.value.instance_types
  size               = { min = each.value.min, desired = each.value.desired, max = each.value.max }
}

module "addon" {
  source   = "../addon"
  for_each = merge(var.addons, { kube-proxy = "v${var.kubernetes_version}" })

  name          = each.key
  cluster       = module.cluster.id
  addon_version = each.value
}

module "database" {
  source = "../database"
  count  = var.database == null ? 0 : 1

  identifier     = "${var.environment}-ledger"
  engine_version = var.database.engine_version
  instance_class = var.database.instance_class
  encrypted      = var.database.encrypted
  backup_days    = var.database.backup_days
  secret         = "${var.environment}/ledger/owner"
}

module "backup" {
  source = "../backup"

  bucket         = "${var.environment}-velero-backups"
  retention_days = var.backup_retention_days
}

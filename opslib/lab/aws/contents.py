"""Fills the account with what a small company's would hold, faults of every kind that the runbook looks for among it.

Its names are the world's (`opslib.lab.world.account`). All is made through AWS's own API; only dates in the past and identifiers, which no
API takes, are set in moto.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from opslib.lab.aws import catalogue, images, past
from opslib.lab.aws.account import Addon
from opslib.lab.aws.server import OWN_KEY, Server
from opslib.lab.world import account as names
from opslib.lab.world.faults import LeakedKey

if TYPE_CHECKING:
    from opslib.lab.world import World

_KEY_AGES: dict[str, tuple[tuple[int, int | None], ...]] = {  # of each access key: days since it was made, days since it was used
    "operator": ((20, 0),),
    "aoi.tanaka": ((41, 0),),
    "kenji.sato": ((12, 3),),
    "ci-deploy": ((412, 1), (398, None)),
    "velero": ((88, 0),),
    "old-contractor": ((610, 233),),
}


def seed(server: Server, world: World | None = None, *, cluster_version: str = "1.36") -> None:
    """Fill the account that `server` serves: cluster, nodes, IAM, networks, buckets, images with findings, trails and their events.

    Parameters
    ----------
    world
        What it is the account of; without it a world of the last week.
    cluster_version
        The control plane's minor; it should be the lab's API server's.
    """
    from opslib.lab.world import World

    now = server.account.now().timestamp()
    world = world or World(7, now - 7 * 86400, now)
    connect = _connections(server)
    server.account.world = world
    _forget_other_regions(server.account.region)
    _roles_and_users(server, connect("iam"))
    _networks_and_cluster(server, connect, world, cluster_version)
    _node_images(server)
    _buckets_and_trail(server, connect)
    images.push(server, connect("ecr"), world)
    connect("guardduty").create_detector(Enable=True, FindingPublishingFrequency="FIFTEEN_MINUTES")
    server.account.analyzers, server.account.findings = _analyzers(server)
    server.account.events = past.ordinary(server.account, world)
    past.log(server.account, world, world.start, now)
    server.account.ready.set()
    past.deliver(server.account, world, world.start, now)


def follow(server: Server, world: World) -> None:
    """Take over what has become different in the world: its releases' images, its events, and keys that are no longer in wrong hands."""
    account, before = server.account, server.account.world
    if before is None or before == world:
        return
    account.world = world
    now = account.now().timestamp()
    images.push(server, _connections(server)("ecr"), world)
    lasting = {timed.fault for timed in world.faults}
    for timed in before.faults:
        if isinstance(timed.fault, LeakedKey) and timed.fault not in lasting:
            _give_back(server, timed.fault.user, timed.fault.access_key)
    changed = [timed.start for timed in {*before.faults, *world.faults}] or [now]
    past.log(account, world, world.start, now)
    past.deliver(account, world, max(world.start, min(changed)), now)


def _give_back(server: Server, user: str, key: str) -> None:
    """Make a user's access key active again, or make it again."""
    from moto.iam.exceptions import NotFoundException
    from moto.iam.models import iam_backends

    held = iam_backends[server.account.account_id]["aws"]
    try:
        held.update_access_key(user, key, "Active")
    except NotFoundException:
        number = next((one for one in range(names.KEYS.get(user, 0)) if names.access_key(user, one) == key), None)
        if number is not None:
            _make_key(server, user, number)


def _make_key(server: Server, name: str, number: int) -> None:
    from moto.iam.models import iam_backends

    held, now = iam_backends[server.account.account_id]["aws"], server.account.now()
    made, used = _KEY_AGES[name][number]
    key: Any = held.create_access_key(name)
    del held.access_keys[key.physical_resource_id]
    key.access_key_id = names.access_key(name, number)
    held.access_keys[key.physical_resource_id] = key
    user = held.get_user(name)
    user.access_keys.remove(key)
    user.access_keys.insert(number, key)
    key.create_date = _bare(now - timedelta(days=made))
    key.last_used = None if used is None else _bare(now - timedelta(days=used))


def _forget_other_regions(region: str) -> None:
    """Drop what moto knows of the instance types of other regions: a third of its memory."""
    from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS

    for offered in INSTANCE_TYPE_OFFERINGS.values():
        for one in [one for one in offered if one not in (region, "us-east-1")]:
            del offered[one]


def _connections(server: Server) -> Callable[[str], Any]:
    """Makes clients of the account. botocore keeps what it has read of a service as long as its session: this one goes with the work."""
    import boto3

    session = boto3.session.Session(
        aws_access_key_id=OWN_KEY,
        aws_secret_access_key="lab",  # noqa: S106 - moto takes any
        region_name=server.account.region,
    )
    return lambda service: session.client(service, endpoint_url=server.url)


def _roles_and_users(server: Server, iam: Any) -> None:
    from moto.iam.models import iam_backends

    account, now = server.account, server.account.now()

    def role(name: str, principal: dict[str, str], *policies: str) -> None:
        trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}]}
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        for number, document in enumerate(policies):
            iam.put_role_policy(RoleName=name, PolicyName=f"{name}-{number}", PolicyDocument=document)

    def allow(*actions: str, resource: str = "*") -> str:
        return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": resource}]})

    role("lab-cluster", {"Service": "eks.amazonaws.com"})
    role(
        "lab-nodes", {"Service": "ec2.amazonaws.com"}, allow("ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
    )
    role("lab-vpc-cni", {"Service": "pods.eks.amazonaws.com"}, allow("ec2:AssignPrivateIpAddresses", "ec2:DescribeInstances"))
    role("lab-ebs-csi", {"Service": "pods.eks.amazonaws.com"}, allow("ec2:CreateVolume", "ec2:AttachVolume", "ec2:DeleteVolume"))
    role("partner-audit", {"AWS": "arn:aws:iam::210987654321:root"}, allow("s3:GetObject", "s3:ListBucket"))
    role("break-glass", {"AWS": f"arn:aws:iam::{account.account_id}:root"}, allow("*"))
    provider = f"arn:aws:iam::{account.account_id}:oidc-provider/ci.example.com"
    role(names.DEPLOYER, {"Federated": provider}, allow("ecr:*", "eks:DescribeCluster"))
    users = (  # name, console, MFA, policy, days since made
        (names.OPERATOR, False, False, allow("*"), 200),
        ("aoi.tanaka", True, True, allow("eks:*", "ec2:Describe*", "logs:*"), 700),
        ("kenji.sato", True, False, allow("eks:Describe*", "ec2:*"), 400),
        ("mei.suzuki", True, True, allow("iam:Get*", "iam:List*", "cloudtrail:*"), 520),
        ("ren.takahashi", True, True, allow("eks:Describe*", "ecr:*", "logs:*"), 300),
        ("ci-deploy", False, False, allow("ecr:*", "eks:DescribeCluster"), 412),
        ("velero", False, False, allow("s3:*", resource=f"arn:aws:s3:::{names.BACKUP_BUCKET}/*"), 380),
        ("old-contractor", True, False, allow("*"), 640),
    )
    held = iam_backends[account.account_id]["aws"].users
    for name, console, mfa, policy, age in users:
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=policy)
        if console:
            iam.create_login_profile(UserName=name, Password=f"{name}-Lab-2026!")
        if mfa:
            serial = iam.create_virtual_mfa_device(VirtualMFADeviceName=name)["VirtualMFADevice"]["SerialNumber"]
            iam.enable_mfa_device(UserName=name, SerialNumber=serial, AuthenticationCode1="123456", AuthenticationCode2="654321")
        user: Any = held[next(key for key, one in held.items() if one.name == name)]
        user.create_date = _bare(now - timedelta(days=age))
        user.password_last_used = _bare(now - timedelta(days=233 if name == "old-contractor" else 1)) if console else None
        for number in range(names.KEYS.get(name, 0)):
            _make_key(server, name, number)
    iam.update_account_password_policy(MinimumPasswordLength=14, RequireSymbols=True, RequireNumbers=True, MaxPasswordAge=365)


def _networks_and_cluster(server: Server, connect: Callable[[str], Any], world: World, cluster_version: str) -> None:
    account, now = server.account, server.account.now()
    ec2, eks = connect("ec2"), connect("eks")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    by_zone = {
        f"{account.region}{zone}": ec2.create_subnet(
            VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{account.region}{zone}"
        )["Subnet"]
        for number, zone in ((1, "a"), (2, "c"), (3, "d"))
    }
    subnets = [one["SubnetId"] for one in by_zone.values()]
    everyone = ({"CidrIp": "0.0.0.0/0"}, {"CidrIpv6": "::/0"})
    groups = {}
    for name, text, port, sources in (
        ("lab-nodes", "Nodes, from within", 443, ({"CidrIp": "10.0.0.0/16"},)),
        ("lab-ingress", "Load balancer of the shop", 443, everyone),
        ("lab-bastion", "Jump host, opened for a test", 22, everyone),
        ("lab-database", "Ledger database", 5432, ({"CidrIp": "10.0.0.0/16"}, {"CidrIp": f"{past.AWAY}/32"})),
    ):
        groups[name] = ec2.create_security_group(GroupName=name, Description=text, VpcId=vpc)["GroupId"]
        permission: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
        permission["IpRanges"] = [one for one in sources if "CidrIp" in one]
        permission["Ipv6Ranges"] = [one for one in sources if "CidrIpv6" in one]
        ec2.authorize_security_group_ingress(GroupId=groups[name], IpPermissions=[permission])
    arn = f"arn:aws:iam::{account.account_id}:role"
    eks.create_cluster(
        name=names.CLUSTER,
        version=cluster_version,
        roleArn=f"{arn}/lab-cluster",
        resourcesVpcConfig={"subnetIds": subnets, "securityGroupIds": [groups["lab-nodes"]], "endpointPublicAccess": True},
        logging={"clusterLogging": [{"types": ["api", "audit", "authenticator"], "enabled": True}]},
        tags={"environment": "lab"},
    )
    known = catalogue.versions()
    before = f"1.{catalogue.number(cluster_version) - 1}"
    releases = known[cluster_version].node_releases
    current = names.NODE_RELEASE if names.NODE_RELEASE in releases else releases[max(len(releases) - 2, 0)]
    for name, version, release, size, kind in (
        (names.NODE_GROUP, cluster_version, current, len(world.nodes), world.nodes[0].instance_type),
        (names.SPARE_NODE_GROUP, before, known[before].node_releases[0], 0, "c7i.2xlarge"),
    ):
        eks.create_nodegroup(
            clusterName=names.CLUSTER,
            nodegroupName=name,
            scalingConfig={"minSize": size, "maxSize": size + 4, "desiredSize": size},
            subnets=subnets,
            instanceTypes=[kind],
            amiType="AL2023_x86_64_STANDARD",
            nodeRole=f"{arn}/lab-nodes",
            version=version,
            releaseVersion=release,
        )
    _nodes(server, connect, world, by_zone, groups["lab-nodes"])
    _age(server, now)
    for name, role in (("vpc-cni", "lab-vpc-cni"), ("coredns", ""), ("kube-proxy", ""), ("aws-ebs-csi-driver", "lab-ebs-csi")):
        # the oldest that fits: something is left to do, and the storage driver does not fit the next version
        fitting = [one.version for one in catalogue.addons()[name].versions if cluster_version in one.fits]
        made = now - timedelta(days=150)
        account.addons[account.region, names.CLUSTER, name] = Addon(
            names.CLUSTER, name, fitting[-1], "ACTIVE", made, made, f"{arn}/{role}" if role else "", tags={"environment": "lab"}
        )
    account.deprecated = [
        {
            "usage": "/apis/storage.k8s.io/v1beta1/volumeattributesclasses",
            "replacedWith": "/apis/storage.k8s.io/v1/volumeattributesclasses",
            "stopServingVersion": f"1.{catalogue.number(cluster_version) + 1}",
            "startServingReplacementVersion": "1.34",
            "clientStats": [
                {"userAgent": "legacy-operator", "numberOfRequestsLast30Days": 412, "lastRequestTime": now - timedelta(hours=2)}
            ],
        }
    ]


def _nodes(server: Server, connect: Callable[[str], Any], world: World, subnets: dict[str, Any], group: str) -> None:
    """The instances that are the world's nodes, in the Auto Scaling group of their node group."""
    from moto.ec2.models import ec2_backends

    ec2, scaling = connect("ec2"), connect("autoscaling")
    node_group = connect("eks").describe_nodegroup(clusterName=names.CLUSTER, nodegroupName=names.NODE_GROUP)["nodegroup"]
    name = node_group["resources"]["autoScalingGroups"][0]["name"]
    image = f"ami-0{names.NODE_RELEASE.encode().hex()[:16]}"
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": image, "InstanceType": world.nodes[0].instance_type})
    held = ec2_backends[server.account.account_id][server.account.region]
    for node in world.nodes:
        subnet = subnets[node.zone]
        own = {"PrivateIpAddress": node.address} if ip_address(node.address) in ip_network(subnet["CidrBlock"]) else {}
        made = ec2.run_instances(
            ImageId=image,
            InstanceType=node.instance_type,
            MinCount=1,
            MaxCount=1,
            SubnetId=subnet["SubnetId"],
            SecurityGroupIds=[group],
            **own,
        )
        instance: Any = held.get_instance(made["Instances"][0]["InstanceId"])
        instance.id = names.instance_id(node)
        instance.launch_time = _bare(datetime.fromtimestamp(world.start - 9 * 86400, UTC))
    tags = {
        "Name": f"{names.CLUSTER}-{names.NODE_GROUP}",
        "eks:cluster-name": names.CLUSTER,
        "eks:nodegroup-name": names.NODE_GROUP,
        f"kubernetes.io/cluster/{names.CLUSTER}": "owned",
    }
    ids = [names.instance_id(node) for node in world.nodes]
    ec2.create_tags(Resources=ids, Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=name,
        LaunchTemplate={"LaunchTemplateName": name, "Version": "$Latest"},
        MinSize=0,
        MaxSize=len(ids) + 4,
        DesiredCapacity=0,
        VPCZoneIdentifier=",".join(one["SubnetId"] for one in subnets.values()),
        Tags=[{"Key": key, "Value": value, "PropagateAtLaunch": True} for key, value in tags.items()],
    )
    scaling.attach_instances(AutoScalingGroupName=name, InstanceIds=ids)
    scaling.update_auto_scaling_group(AutoScalingGroupName=name, MinSize=len(ids))


def _age(server: Server, now: datetime) -> None:
    """The cluster and its node groups have been there for a while."""
    from moto.eks.models import eks_backends

    cluster: Any = eks_backends[server.account.account_id][server.account.region].clusters[names.CLUSTER]
    cluster.created_at = _bare(now - timedelta(days=410))
    for group in cluster.nodegroups.values():
        group.created_at = _bare(now - timedelta(days=180))
        group.modified_at = _bare(now - timedelta(days=96))


def _node_images(server: Server) -> None:
    """What AWS publishes of its newest node images: https://docs.aws.amazon.com/eks/latest/userguide/retrieve-ami-id.html"""
    from moto.ssm import models

    account, parameter = server.account, getattr(models, "Parameter")  # noqa: B009 - its bases are abstract to who checks types
    held: Any = models.ssm_backends[account.account_id][account.region]
    for version in catalogue.versions().values():
        release = version.node_releases[-1]
        base = f"/aws/service/eks/optimized-ami/{version.minor}/amazon-linux-2023/x86_64/standard/recommended"
        for name, value in (("release_version", release), ("image_id", f"ami-0{release.encode().hex()[:16]}")):
            held._parameters[f"{base}/{name}"].append(  # its own put_parameter refuses names of AWS
                parameter(
                    account_id=account.account_id,
                    name=f"{base}/{name}",
                    value=value,
                    parameter_type="String",
                    description=None,
                    allowed_pattern=None,
                    keyid=None,
                    last_modified_date=_bare(max(version.released, account.now() - timedelta(days=12))),
                    version=1,
                    data_type="text",
                )
            )


def _buckets_and_trail(server: Server, connect: Callable[[str], Any]) -> None:
    account = server.account
    s3, trail, logs = connect("s3"), connect("cloudtrail"), connect("logs")
    place = {"LocationConstraint": account.region}
    closed = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    for name in (names.BACKUP_BUCKET, names.SNAPSHOT_BUCKET, names.TRAIL_BUCKET):
        s3.create_bucket(Bucket=name, CreateBucketConfiguration=place)
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=closed)
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]})
    s3.create_bucket(Bucket="lab-static-assets", CreateBucketConfiguration=place)
    public = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::lab-static-assets/*"}
    s3.put_bucket_policy(Bucket="lab-static-assets", Policy=json.dumps({"Version": "2012-10-17", "Statement": [public]}))
    trail.create_trail(Name=names.TRAIL, S3BucketName=names.TRAIL_BUCKET, IsMultiRegionTrail=True, EnableLogFileValidation=True)
    trail.start_logging(Name=names.TRAIL)
    for name, days in ((names.CLUSTER_LOG, 30), ("/lab/applications", 0)):  # 30 days are too few for an audit; 0: never ends
        logs.create_log_group(logGroupName=name)
        if days:
            logs.put_retention_policy(logGroupName=name, retentionInDays=days)


def _analyzers(server: Server) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    account, now = server.account, server.account.now()
    base = f"arn:aws:access-analyzer:{account.region}:{account.account_id}:analyzer"
    analyzers: list[dict[str, Any]] = [
        {"arn": f"{base}/{name}", "name": name, "type": kind, "createdAt": now - timedelta(days=380), "status": "ACTIVE", "tags": {}}
        for name, kind in (("lab-external", "ACCOUNT"), ("lab-unused", "ACCOUNT_UNUSED_ACCESS"))
    ]
    analyzers[1]["configuration"] = {"unusedAccess": {"unusedAccessAge": 90}}

    def finding(number: int, analyzer: str, kind: str, resource: str, resource_type: str, days: int, **more: Any) -> dict[str, Any]:
        return {
            "analyzerArn": f"{base}/{analyzer}",
            "id": f"0b5d7c1e-4f7a-4d0b-9a51-{number:012d}",
            "findingType": kind,
            "resource": resource,
            "resourceType": resource_type,
            "resourceOwnerAccount": account.account_id,
            "status": "ACTIVE",
            "createdAt": now - timedelta(days=days),
            "analyzedAt": now - timedelta(hours=5),
            "updatedAt": now - timedelta(days=days),
            **more,
        }

    policy = [{"type": "POLICY"}]
    iam = f"arn:aws:iam::{account.account_id}"
    old = {"lastAccessed": now - timedelta(days=233)}
    return analyzers, [
        finding(
            1,
            "lab-external",
            "ExternalAccess",
            "arn:aws:s3:::lab-static-assets",
            "AWS::S3::Bucket",
            61,
            principal={"AWS": "*"},
            action=["s3:GetObject"],
            isPublic=True,
            condition={},
            sources=policy,
        ),
        finding(
            2,
            "lab-external",
            "ExternalAccess",
            f"{iam}:role/partner-audit",
            "AWS::IAM::Role",
            210,
            principal={"AWS": "210987654321"},
            action=["sts:AssumeRole"],
            isPublic=False,
            condition={},
            sources=policy,
        ),
        finding(
            3,
            "lab-unused",
            "UnusedIAMUserPassword",
            f"{iam}:user/old-contractor",
            "AWS::IAM::User",
            143,
            details={"unusedIamUserPasswordDetails": old},
        ),
        finding(4, "lab-unused", "UnusedIAMRole", f"{iam}:role/break-glass", "AWS::IAM::Role", 290, details={"unusedIamRoleDetails": {}}),
    ]


def _bare(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)  # moto's dates are without a zone, in UTC

"""Fills the account with what a small company's would hold, faults of every kind that the runbook looks for among it.

Everything is made through AWS's own API; only dates in the past, which no API takes, are set in moto.
"""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from typing import Any

from opslib.lab.aws import catalogue
from opslib.lab.aws.account import Addon, Event
from opslib.lab.aws.server import Server
from opslib.lab.platform import WORKLOADS

CLUSTER = "lab"
BUCKET = "lab-velero-backups"
HOME = "203.0.113.10"  # the office; addresses are of the ranges for documents
AWAY = "198.51.100.77"


def seed(server: Server, *, cluster_version: str = "1.36") -> None:
    """Fill the account that `server` serves: the cluster "lab", IAM, networks, buckets, images with findings, trails and their events.

    Parameters
    ----------
    cluster_version
        The control plane's minor; it should be the lab's API server's.
    """
    _roles_and_users(server)
    _networks_and_cluster(server, cluster_version)
    _buckets_and_trail(server)
    _images(server)
    server.account.analyzers, server.account.findings = _analyzers(server)
    server.account.events = _events(server.account.now(), server)  # what made the account is not history of it
    server.account.ready.set()


def client(server: Server, service: str, region: str = "") -> Any:
    """A boto3 client of the account."""
    import boto3

    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name=region or server.account.region,
        aws_access_key_id="lab",
        aws_secret_access_key="lab",  # noqa: S106 - moto takes any
    )


def _roles_and_users(server: Server) -> None:
    from moto.iam.models import iam_backends

    iam = client(server, "iam")
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
    users: tuple[tuple[str, bool, bool, tuple[tuple[int, int | None], ...], str, int], ...] = (
        # name, console, MFA, keys (days since made, days since used), policy, days since made
        ("aoi.tanaka", True, True, ((41, 0),), allow("eks:*", "ec2:Describe*", "logs:*"), 700),
        ("kenji.sato", True, False, ((12, 3),), allow("eks:Describe*", "ec2:*"), 400),
        ("mei.suzuki", True, True, (), allow("iam:Get*", "iam:List*", "cloudtrail:*"), 520),
        ("ci-deploy", False, False, ((412, 1), (398, None)), allow("ecr:*", "eks:DescribeCluster"), 412),
        ("velero", False, False, ((88, 0),), allow("s3:*", resource=f"arn:aws:s3:::{BUCKET}/*"), 380),
        ("old-contractor", True, False, ((610, 233),), allow("*"), 640),
    )
    held = iam_backends[account.account_id]["aws"].users
    for name, console, mfa, keys, policy, age in users:
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
        for made, used in keys:
            iam.create_access_key(UserName=name)
            key = user.access_keys[-1]
            key.create_date = _bare(now - timedelta(days=made))
            key.last_used = None if used is None else _bare(now - timedelta(days=used))
    iam.update_account_password_policy(MinimumPasswordLength=14, RequireSymbols=True, RequireNumbers=True, MaxPasswordAge=365)


def _networks_and_cluster(server: Server, cluster_version: str) -> None:
    account, now = server.account, server.account.now()
    ec2, eks = client(server, "ec2"), client(server, "eks")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{account.region}{zone}")["Subnet"]["SubnetId"]
        for number, zone in ((1, "a"), (2, "c"), (3, "d"))
    ]
    everyone = ({"CidrIp": "0.0.0.0/0"}, {"CidrIpv6": "::/0"})
    groups = {}
    for name, text, port, sources in (
        ("lab-nodes", "Nodes, from within", 443, ({"CidrIp": "10.0.0.0/16"},)),
        ("lab-ingress", "Load balancer of the shop", 443, everyone),
        ("lab-bastion", "Jump host, opened for a test", 22, everyone),
        ("lab-database", "Ledger database", 5432, ({"CidrIp": "10.0.0.0/16"}, {"CidrIp": f"{AWAY}/32"})),
    ):
        groups[name] = ec2.create_security_group(GroupName=name, Description=text, VpcId=vpc)["GroupId"]
        permission: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
        permission["IpRanges"] = [one for one in sources if "CidrIp" in one]
        permission["Ipv6Ranges"] = [one for one in sources if "CidrIpv6" in one]
        ec2.authorize_security_group_ingress(GroupId=groups[name], IpPermissions=[permission])
    arn = f"arn:aws:iam::{account.account_id}:role"
    eks.create_cluster(
        name=CLUSTER,
        version=cluster_version,
        roleArn=f"{arn}/lab-cluster",
        resourcesVpcConfig={"subnetIds": subnets, "securityGroupIds": [groups["lab-nodes"]], "endpointPublicAccess": True},
        logging={"clusterLogging": [{"types": ["api", "audit", "authenticator"], "enabled": True}]},
        tags={"environment": "lab"},
    )
    known = catalogue.versions()
    before = f"1.{catalogue.number(cluster_version) - 1}"
    releases = known[cluster_version].node_releases
    for name, version, release, size, kind in (
        ("main", cluster_version, releases[max(len(releases) - 2, 0)], 4, "m7i.xlarge"),
        ("batch", before, known[before].node_releases[0], 0, "c7i.2xlarge"),
    ):
        eks.create_nodegroup(
            clusterName=CLUSTER,
            nodegroupName=name,
            scalingConfig={"minSize": size, "maxSize": size + 4, "desiredSize": size},
            subnets=subnets,
            instanceTypes=[kind],
            amiType="AL2023_x86_64_STANDARD",
            nodeRole=f"{arn}/lab-nodes",
            version=version,
            releaseVersion=release,
        )
    _age(server, now)
    for name, role in (("vpc-cni", "lab-vpc-cni"), ("coredns", ""), ("kube-proxy", ""), ("aws-ebs-csi-driver", "lab-ebs-csi")):
        # the oldest that fits: something is left to do, and the storage driver does not fit the next version
        fitting = [one.version for one in catalogue.addons()[name].versions if cluster_version in one.fits]
        made = now - timedelta(days=150)
        account.addons[account.region, CLUSTER, name] = Addon(
            CLUSTER, name, fitting[-1], "ACTIVE", made, made, f"{arn}/{role}" if role else "", tags={"environment": "lab"}
        )
    account.deprecated = [
        {
            "usage": "/apis/flowcontrol.apiserver.k8s.io/v1beta3/flowschemas",
            "replacedWith": "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
            "stopServingVersion": f"1.{catalogue.number(cluster_version) + 1}",
            "startServingReplacementVersion": "1.29",
            "clientStats": [
                {"userAgent": "legacy-operator", "numberOfRequestsLast30Days": 412, "lastRequestTime": now - timedelta(hours=2)}
            ],
        }
    ]


def _age(server: Server, now: datetime) -> None:
    """The cluster and its node groups have been there for a while."""
    from moto.eks.models import eks_backends

    cluster: Any = eks_backends[server.account.account_id][server.account.region].clusters[CLUSTER]
    cluster.created_at = _bare(now - timedelta(days=410))
    for group in cluster.nodegroups.values():
        group.created_at = _bare(now - timedelta(days=180))
        group.modified_at = _bare(now - timedelta(days=96))


def _buckets_and_trail(server: Server) -> None:
    account = server.account
    s3, trail, logs = client(server, "s3"), client(server, "cloudtrail"), client(server, "logs")
    place = {"LocationConstraint": account.region}
    closed = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    for name in (BUCKET, "lab-audit-logs"):
        s3.create_bucket(Bucket=name, CreateBucketConfiguration=place)
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=closed)
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]})
    s3.create_bucket(Bucket="lab-static-assets", CreateBucketConfiguration=place)
    public = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::lab-static-assets/*"}
    s3.put_bucket_policy(Bucket="lab-static-assets", Policy=json.dumps({"Version": "2012-10-17", "Statement": [public]}))
    trail.create_trail(Name="lab-audit", S3BucketName="lab-audit-logs", IsMultiRegionTrail=True, EnableLogFileValidation=True)
    trail.start_logging(Name="lab-audit")
    for name, days in ((f"/aws/eks/{CLUSTER}/cluster", 30), ("/lab/applications", 0)):  # 30 days are too few for an audit; 0: never ends
        logs.create_log_group(logGroupName=name)
        if days:
            logs.put_retention_policy(logGroupName=name, retentionInDays=days)


def _images(server: Server) -> None:
    ecr, account, now = client(server, "ecr"), server.account, server.account.now()
    known = (
        (
            "CVE-2021-44228",
            "CRITICAL",
            "org.apache.logging.log4j:log4j-core",
            "2.14.1",
            "2.15.0",
            10.0,
            "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H",
        ),
        ("CVE-2024-3094", "CRITICAL", "xz-utils", "5.6.0-0.2", "5.6.1+really5.4.5-1", 10.0, "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H"),
        ("CVE-2023-44487", "HIGH", "golang.org/x/net", "0.16.0", "0.17.0", 7.5, "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H"),
        ("CVE-2023-4911", "HIGH", "glibc", "2.36-9+deb12u1", "2.36-9+deb12u3", 7.8, "CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H"),
        ("CVE-2023-5363", "HIGH", "openssl", "3.0.11-1~deb12u1", "3.0.11-1~deb12u2", 7.5, "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N"),
    )
    affected = {"search": known[:1], "payment-api": known[2:5], "fraud-check": known[2:3], "catalog": known[3:5]}
    for workload in WORKLOADS:
        if workload.namespace not in ("shop", "payments"):
            continue
        name = f"{workload.namespace}/{workload.name}"
        ecr.create_repository(
            repositoryName=name,
            imageScanningConfiguration={"scanOnPush": workload.name != "session-store"},
            imageTagMutability="IMMUTABLE" if workload.namespace == "payments" else "MUTABLE",
        )
        content = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 7023, "digest": f"sha256:{_digest(name)}"}
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": content,
            "layers": [],
        }
        image = ecr.put_image(repositoryName=name, imageTag=workload.version, imageManifest=json.dumps(manifest))["image"]
        if workload.name == "session-store":  # one that was never scanned
            continue
        account.scans[name, image["imageId"]["imageDigest"]] = {
            "imageScanCompletedAt": now - timedelta(hours=9),
            "vulnerabilitySourceUpdatedAt": now - timedelta(hours=12),
            "findings": [
                {
                    "name": cve,
                    "description": f"{package} before {fixed}",
                    "uri": f"https://nvd.nist.gov/vuln/detail/{cve}",
                    "severity": severity,
                    "attributes": [
                        {"key": "package_name", "value": package},
                        {"key": "package_version", "value": version},
                        {"key": "CVSS3_SCORE", "value": str(score)},
                        {"key": "CVSS3_VECTOR", "value": vector},
                    ],
                }
                for cve, severity, package, version, fixed, score, vector in affected.get(workload.name, ())
            ],
        }


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


def _events(now: datetime, server: Server) -> list[Event]:
    chance = random.Random(20260101)  # noqa: S311 - the same history every time
    region, account = server.account.region, server.account.account_id
    found: list[Event] = []

    def add(
        when: datetime, name: str, source: str, user: str, where: str, *resources: tuple[str, str], read: bool = False, **more: Any
    ) -> None:
        record = {name: value for name, value in {"sourceIPAddress": HOME, **more}.items() if value is not None}
        identity = _uuid(chance)
        found.append(Event(when, name, f"{source}.amazonaws.com", user, read, "", resources, record, where, identity))

    def login(when: datetime, user: str, mfa: bool, address: str = HOME, done: bool = True) -> None:
        add(
            when,
            "ConsoleLogin",
            "signin",
            user,
            "us-east-1",
            eventType="AwsConsoleSignIn",
            sourceIPAddress=address,
            userAgent="Mozilla/5.0",
            additionalEventData={"MFAUsed": "Yes" if mfa else "No", "MobileVersion": "No"},
            responseElements={"ConsoleLogin": "Success" if done else "Failure"},
            errorMessage=None if done else "Failed authentication",
        )

    for day in range(60, 0, -1):
        morning = (now - timedelta(days=day)).replace(hour=0, minute=chance.randrange(60), second=chance.randrange(60), microsecond=0)
        if morning.weekday() < 5:
            login(morning, "aoi.tanaka", True)
            if chance.random() < 0.4:
                login(morning + timedelta(hours=1), "mei.suzuki", True)
            for _ in range(chance.randrange(1, 4)):
                repository = chance.choice(("shop/web", "shop/catalog", "payments/payment-api"))
                when = morning + timedelta(minutes=chance.randrange(30, 480))
                add(when, "PutImage", "ecr", "ci-deploy", region, ("AWS::ECR::Repository", repository))
                add(when + timedelta(minutes=1), "DescribeCluster", "eks", "ci-deploy", region, ("AWS::EKS::Cluster", CLUSTER), read=True)
    odd = "kenji.sato"
    opened = {"fromPort": 22, "toPort": 22, "ipRanges": {"items": [{"cidrIp": "0.0.0.0/0"}]}}
    evening = (now - timedelta(days=3)).replace(hour=13, minute=4, second=11, microsecond=0)
    for minute in (0, 1, 2):
        login(evening + timedelta(minutes=minute), odd, False, AWAY, done=False)
    login(evening + timedelta(minutes=4), odd, False, AWAY)  # to be found: no MFA, a new address, after failures
    add(
        evening + timedelta(minutes=9),
        "AuthorizeSecurityGroupIngress",
        "ec2",
        odd,
        region,
        ("AWS::EC2::SecurityGroup", "lab-bastion"),
        sourceIPAddress=AWAY,
        requestParameters={"ipPermissions": {"items": [opened]}},
    )
    add(
        evening + timedelta(minutes=14),
        "CreateAccessKey",
        "iam",
        odd,
        "us-east-1",
        ("AWS::IAM::User", "old-contractor"),
        sourceIPAddress=AWAY,
        errorCode="AccessDenied",
        errorMessage="User is not authorized to perform: iam:CreateAccessKey",
    )
    add(
        evening + timedelta(minutes=15),
        "StopLogging",
        "cloudtrail",
        odd,
        region,
        ("AWS::CloudTrail::Trail", "lab-audit"),
        sourceIPAddress=AWAY,
        errorCode="AccessDenied",
        errorMessage="User is not authorized to perform: cloudtrail:StopLogging",
    )
    add(
        now - timedelta(days=17),
        "AssumeRole",
        "sts",
        "aoi.tanaka",
        "us-east-1",
        ("AWS::IAM::Role", f"arn:aws:iam::{account}:role/break-glass"),
        read=True,
        requestParameters={"roleArn": f"arn:aws:iam::{account}:role/break-glass", "roleSessionName": "database-down"},
    )
    add(
        now - timedelta(days=9),
        "UpdateNodegroupVersion",
        "eks",
        "aoi.tanaka",
        region,
        ("AWS::EKS::Cluster", CLUSTER),
        requestParameters={"name": CLUSTER, "nodegroupName": "main"},
    )
    return sorted((one for one in found if one.time <= now), key=lambda one: one.time)


def _uuid(chance: random.Random) -> str:
    import uuid

    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def _bare(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)  # moto's dates are without a zone, in UTC

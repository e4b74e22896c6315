"""An AWS account on the loopback: moto's server, and in front of it what moto lacks and the runbook needs.

Own operations are the keys of `OPERATIONS`; every other call is passed on to moto. Requests are read and answers written by botocore's own
service models (`protocol`), so a member that AWS does not have cannot be answered. moto keeps its state for the whole process: one
account a process.

>>> server = serve(Account())  # doctest: +SKIP
>>> seed(server)  # doctest: +SKIP
>>> boto3.client("eks", endpoint_url=server.url, region_name="ap-northeast-1")  # doctest: +SKIP
"""

from opslib.lab.aws.account import Account as Account
from opslib.lab.aws.account import Durations as Durations
from opslib.lab.aws.account import Event as Event
from opslib.lab.aws.contents import follow as follow
from opslib.lab.aws.contents import seed as seed
from opslib.lab.aws.server import OPERATIONS as OPERATIONS
from opslib.lab.aws.server import Server as Server
from opslib.lab.aws.server import app as app
from opslib.lab.aws.server import serve as serve

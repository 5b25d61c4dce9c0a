"""Offload: send the evidence that is worth a thin uplink, and answer every request.

What touches HTTP (`server`, `client`) is imported from its own module, because it needs the extra `serve`.
"""

from sparing.offload.answers import Answer, summarise
from sparing.offload.bench import Bench, score, try_scheme
from sparing.offload.calibration import Policy, candidate_schemes, choose
from sparing.offload.edge import Choice, Request, pool, prepare
from sparing.offload.gate import Gate
from sparing.offload.images import read_image
from sparing.offload.link import Link
from sparing.offload.models import EdgeModel, EdgeOutput, Evidence, Geometry, ServerModel
from sparing.offload.policies import POLICIES, select
from sparing.offload.policy_file import read_policy, write_policy
from sparing.offload.schemes import Scheme

__all__ = [
    "POLICIES",
    "Answer",
    "Bench",
    "Choice",
    "EdgeModel",
    "EdgeOutput",
    "Evidence",
    "Gate",
    "Geometry",
    "Link",
    "Policy",
    "Request",
    "Scheme",
    "ServerModel",
    "candidate_schemes",
    "choose",
    "pool",
    "prepare",
    "read_image",
    "read_policy",
    "score",
    "select",
    "summarise",
    "try_scheme",
    "write_policy",
]

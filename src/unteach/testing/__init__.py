"""What plugin authors and unteach's own tests call: a method's loss on given rows, and the
conformance tests of methods and attacks.

loss, norm = method_loss("NPO", {"beta": 0.1}, policy, reference, forget, retain, template_args)
check_method("MyMethod")
check_attack("my_attack")
"""

from unteach.testing.attacks import check_attack
from unteach.testing.conformance import TOLERANCE, check_method
from unteach.testing.examples import Examples, Row
from unteach.testing.losses import build_method, build_wrappers, method_loss, step_gradient

__all__ = [
    "TOLERANCE",
    "Examples",
    "Row",
    "build_method",
    "build_wrappers",
    "check_attack",
    "check_method",
    "method_loss",
    "step_gradient",
]

"""What plugin authors and unteach's own tests call: a method's loss on given rows, and the
conformance test.

loss, norm = method_loss("NPO", {"beta": 0.1}, policy, reference, forget, retain, template_args)
check_method("MyMethod")
"""

from unteach.testing.conformance import TOLERANCE, check_method
from unteach.testing.examples import Examples, Row
from unteach.testing.losses import build_method, build_wrappers, method_loss, step_gradient

__all__ = [
    "TOLERANCE",
    "Examples",
    "Row",
    "build_method",
    "build_wrappers",
    "check_method",
    "method_loss",
    "step_gradient",
]

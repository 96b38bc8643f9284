"""JensUn: move what is forgotten towards a few fixed words, by a divergence that has a ceiling."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from unteach.errors import UserError
from unteach.methods.base import Context, StreamReference, Term, Unlearn
from unteach.methods.divergences import jensen_shannon_to_token
from unteach.models.forward import OutputSpec, TokenOutputs
from unteach.registry import method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "JensUn",
    paper="arXiv:2509.02820",
    cost="1 forget + 1 retain forward",
    reference="a frozen copy's logits on the retain rows",
    evidence="verified against the authors' code",
    license="none; written from the formula",
)
@dataclass
class JensUn(Unlearn):
    """L_forget = JS(p_t, onehot(c_k)), the mean over answer tokens; c are the tokens of `target`,
    said again and again over the answer, k the token's place in it.

    At most log 2. Its gradient vanishes as p(c) -> 0, so that it starts slowly.
    """

    retain_loss_type: Literal["NLL", "KL", "EMBED_DIFF", "JS"] = "JS"
    target: str = field(
        default="No Idea", metadata={"help": "what is said in the place of the answers"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.target.strip():
            raise UserError("target must hold a word: it is what is said in the answers' place")
        self.target_ids: list[int] = []

    def prepare(self, context: Context) -> None:
        assert context.template is not None, "the target's tokens are the model's"
        self.target_ids = list(context.template.encode_words(self.target))

    def forget_want(self, reference: StreamReference) -> OutputSpec:
        def select_target_logprobs(logits: "Tensor", labels: "Tensor") -> "Tensor":
            return logits[:, self.target_ids] - logits.logsumexp(-1, keepdim=True)

        return OutputSpec(fn=select_target_logprobs)

    def forget(self, policy: TokenOutputs, reference: StreamReference) -> Term:
        turn = policy.index_in_row() % len(self.target_ids)
        log_p = policy.value.gather(-1, turn.unsqueeze(-1)).squeeze(-1)
        return Term("forget", jensen_shannon_to_token(log_p), "forget.tokens")

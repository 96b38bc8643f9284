"""The question in another form than the one that was unlearned."""

from dataclasses import dataclass
from typing import Literal

from unteach.audits.attacks.base import Attack, AuditContext, encode_after
from unteach.audits.probes import Probe, TextProbe
from unteach.config.schema import TemplateArgs
from unteach.data.template import Template
from unteach.errors import UserError
from unteach.registry import attack

KINDS: tuple[Literal["chat", "qa", "raw"], ...] = ("chat", "qa", "raw")


@attack("format", cost="up to 3 generations a fact")
@dataclass
class Format(Attack):
    """Ask through the other templates (chat, tags, bare words), without the system prompt, and as a
    statement that breaks off before its value."""

    def write_probes(self, context: AuditContext) -> list[Probe]:
        probes: list[Probe] = []
        others = self.list_templates(context.template)
        raw = context.template.as_raw()
        for fact in context.facts:
            turns = [turn for turn in fact.earlier if turn.role != "system"]
            templates = list(others)
            if len(turns) < len(fact.earlier):
                templates.append(context.template)
            for template in templates:
                asked = encode_after(template, fact.question, earlier=turns)
                probes.append(TextProbe(fact.index, asked))
            if fact.stem:
                probes.append(TextProbe(fact.index, raw.encode_prompt(fact.stem), fact.stem))
        return probes

    def list_templates(self, own: Template) -> list[Template]:
        """List the ways to ask this model but its own."""
        templates = []
        for kind in KINDS:
            if kind == own.kind:
                continue
            try:
                templates.append(Template(own.tokenizer, TemplateArgs(kind=kind), own.thinks))
            except UserError:  # a model without a chat template has no chat form
                continue
        if own.kind == "chat" and own.args.system_prompt:
            templates.append(Template(own.tokenizer, TemplateArgs(kind="chat"), own.thinks))
        return templates

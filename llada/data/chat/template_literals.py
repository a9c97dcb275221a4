"""Stand-ins for the special tokens that a chat template itself spells.

In the string that a template writes, "<|im_end|>" may be the template's or a user's. So the program is compiled with
stand-ins, which begin and end with characters that no text has, in place of the tokens that it spells; what is found in
them afterwards is the template's own, and everything else is text, whatever it spells. A token that is put together
around a role, as in ``'<|' + message.role + '|>'``, is known by marks behind its first and before its last part.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llada.data.chat.chat_template import Part, Special

OPEN, CLOSE = "\U0010fffe", "\U0010ffff"
"""Noncharacters: no text of a conversation has them."""
_MARK = OPEN + CLOSE
_AS_THEY_STAND = ("replace",)  # filters whose arguments are looked for in texts


@dataclass(frozen=True)
class Literals:
    """Names of special tokens with their stand-ins.

    Args:
        names: spellings of the special tokens.
        roles: that a message may have, and that a token may be put together around.
    """

    names: tuple[str, ...]
    roles: tuple[str, ...]

    def stand_in(self, name: str) -> str:
        """What stands for a special token."""
        return f"{OPEN}{self.names.index(name)}{CLOSE}"

    def replace(self, tree: Any, nodes: Any) -> None:
        """Put stand-ins into a program.

        Args:
            tree: of the program; it is changed.
            nodes: the module ``jinja2.nodes``.
        """
        looked_for = {id(node) for node in _looked_for(tree, nodes)}
        for node in tree.find_all(nodes.TemplateData):
            node.data = self._hide(node.data)
        for node in tree.find_all(nodes.Const):
            if isinstance(node.value, str) and id(node) not in looked_for:
                node.value = self._hide(node.value)

    def parts(self, written: str) -> Iterator[Part]:
        """Split what the program wrote: special tokens that it spelt itself, and text."""
        end = 0
        for found in self._found(written):
            name = self.names[int(found[1])] if found[1] else found[2].replace(_MARK, "")
            if found.start() > end:
                yield written[end : found.start()].replace(_MARK, "")
            yield Special(name)
            end = found.end()
        if end < len(written):
            yield written[end:].replace(_MARK, "")

    def _found(self, written: str) -> Iterator[re.Match[str]]:
        around = [f"{re.escape(p)}{_MARK}{re.escape(role)}{_MARK}{re.escape(q)}" for p, role, q in self._around_roles()]
        return re.finditer(f"{OPEN}([0-9]+){CLOSE}|({'|'.join(around) or '(?!)'})", written)

    def _hide(self, text: str) -> str:
        longest = sorted(self.names, key=len, reverse=True)
        if longest:
            spelt = re.compile("|".join(map(re.escape, longest)))
            text = spelt.sub(lambda found: self.stand_in(found[0]), text)
        for before, after in {(p, q) for p, _, q in self._around_roles()}:
            text = text + _MARK if before and text.endswith(before) else text
            text = _MARK + text if after and text.startswith(after) else text
        return text

    def _around_roles(self) -> list[tuple[str, str, str]]:
        """Special tokens as (what stands before a role, the role, what stands after it)."""
        return [
            (name[: name.index(role)], role, name[name.index(role) + len(role) :])
            for name in self.names
            for role in self.roles
            if role in name and name != role
        ]


def spelt_in(text: str, names: Sequence[str]) -> set[str]:
    """The special tokens that a text spells."""
    return {name for name in names if name in text}


def _looked_for(tree: Any, nodes: Any) -> Iterator[Any]:
    """Texts that the program compares messages with, instead of writing them."""
    for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Filter, nodes.Test)):
        if isinstance(node, nodes.Compare | nodes.Test):
            below = [node]
        elif isinstance(node, nodes.Call):
            below = node.args if isinstance(node.node, nodes.Getattr) else []
        else:
            below = node.args if node.name in _AS_THEY_STAND else []
        for top in below:
            if isinstance(top, nodes.Const):
                yield top
            yield from top.find_all(nodes.Const)

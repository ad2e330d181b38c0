"""Why a field is a bound or unknown, and why a layer is not counted, in the reader's language.

An analysis says it in English, with the names of layers in it; here are its sentences in Chinese.
"""

from __future__ import annotations

import re
from functools import cache

__all__ = ["CAUSES", "cause"]

CAUSES = {
    "{0} reads where its offsets say": "{0} 的读取位置由偏移量决定",
    "{0} samples where its grid says": "{0} 的采样位置由网格决定",
    "{0} puts elements where its second input says": "{0} 按第二个输入放置元素",
    "{0} reads where its second input says": "{0} 的读取位置由第二个输入决定",
    "{0} mixes positions with other axes": "{0} 把位置与其他轴混在一起",
    "{0} mixes positions along different axes": "{0} 把不同轴上的位置混在一起",
    "{0} takes a part of channels that see different pixels": (
        "{0} 只取部分通道，而各通道看到的像素不同"
    ),
    "{0} joins branches that leave gaps": "{0} 合并的分支之间留有空隙",
    "{0} joins branches of strides {1} and {2}": "{0} 合并步幅为 {1} 与 {2} 的分支",
    "{0} sees the whole input": "{0} 能看到整个输入",
    "{0}: {1} is not supported": "{0}：不支持 {1}",
    "it does not depend on the input": "它与输入无关",
    "no input has image axes": "没有带图像轴的输入",
    "convsmith does not know {0}": "convsmith 不认识 {0}",
    "the shape of what it reads is not known": "输入的形状未知",
    "no rule says what {0} costs": "没有规则说明 {0} 的开销",
}
"""English and Chinese; numbers in braces stand for names of layers and operators."""


def cause(english: str, lang: str) -> str:
    """Says a reason of an analysis in a language; one that has no words of its own stays.

    >>> cause("deform1 reads where its offsets say", "zh")
    'deform1 的读取位置由偏移量决定'
    """
    if lang == "en":
        return english
    for pattern, chinese in _patterns():
        found = pattern.fullmatch(english)
        if found:
            return chinese.format(*found.groups())
    return english


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    def pattern(english: str) -> re.Pattern[str]:
        parts = re.split(r"\{\d\}", english)
        return re.compile("(.+)".join(map(re.escape, parts)), re.DOTALL)

    return tuple((pattern(english), chinese) for english, chinese in CAUSES.items())

"""Why tools differ, in words: English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["REASONS", "Reason", "reason_text"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason; ``{per}`` stands for how much is counted per element."""

    en: str
    zh: str


REASONS: Mapping[str, Reason] = MappingProxyType(
    {
        # What is counted besides the products.
        "bias": Reason("biases counted as multiply-accumulates", "偏置计为乘加"),
        "bias-add": Reason("additions of biases", "偏置的加法"),
        "norm": Reason("normalizations, {per} per element", "归一化，每个元素计 {per} 次"),
        "norm-statistics": Reason("normalizations, per set of statistics", "归一化，按统计组计"),
        "norm-functions": Reason(
            "normalizations, by the functions that they call", "归一化，按其内部调用的函数计"
        ),
        "norm-params": Reason(
            "normalizations, 1 per parameter and image, whatever the size of the image",
            "归一化，每张图像每个参数计 1 次，与图像大小无关",
        ),
        "slopes": Reason(
            "slopes of PReLU, 1 per slope and image", "PReLU 斜率，每张图像每个计 1 次"
        ),
        "activation": Reason("activations, {per} per element", "激活函数，每个元素计 {per} 次"),
        "softmax": Reason("softmax, {per} per element", "softmax，每个元素计 {per} 次"),
        "softmax-sets": Reason(
            "softmax: exponentials, additions and divisions", "softmax：指数、加法与除法"
        ),
        "pool-inputs": Reason("pooling, {per} per input element", "池化，每个输入元素计 {per} 次"),
        "pool-outputs": Reason(
            "pooling, {per} per output element", "池化，每个输出元素计 {per} 次"
        ),
        "pool-windows": Reason(
            "pooling: elements in all windows, and a division per output",
            "池化：所有窗口内的元素，外加每个输出一次除法",
        ),
        "pool-kernel": Reason("pooling, by the size of its window", "池化，按窗口大小计"),
        "reduction": Reason("reductions, {per} per element", "归约，每个元素计 {per} 次"),
        "interpolation": Reason(
            "interpolation, {per} per output element", "插值，每个输出元素计 {per} 次"
        ),
        "elementwise": Reason(
            "elementwise operations, {per} per element", "逐元素运算，每个元素计 {per} 次"
        ),
        "setup": Reason(
            "transposed convolutions: arithmetic of their padding", "转置卷积：填充的计算"
        ),
        "two-operations": Reason(
            "each multiply-accumulate counted as two operations", "每次乘加计为两次运算"
        ),
        "additions": Reason("additions", "加法"),
        "per-image": Reason(
            "given for one image, not for the whole batch", "结果按单张图像给出，而非整个批次"
        ),
        # Why products are counted differently, or not at all.
        "functional": Reason(
            "functions called in a forward, which it does not see",
            "在 forward 中直接调用的函数，该工具看不到",
        ),
        "no-rule": Reason("operators that it has no rule for", "该工具没有规则的算子"),
        "same": Reason(
            'convolutions with padding="same", which it has no rule for',
            'padding="same" 的卷积，该工具没有对应规则',
        ),
        "half-padding": Reason(
            'convolutions with padding="same", padded by half of an odd number on both sides',
            'padding="same" 的卷积，奇数总填充在两侧都只取一半',
        ),
        "transposed": Reason(
            "transposed convolutions, counted by their outputs instead of their inputs",
            "转置卷积，按输出而不是按输入计数",
        ),
        "groups": Reason(
            "transposed convolutions divided by their groups twice", "转置卷积被分组数除了两次"
        ),
        "first-axis": Reason(
            "linear layers over more than the batch: only its first axis is counted",
            "线性层的输入多于两个维度，却只按第一维计数",
        ),
        "vectors": Reason(
            "products with a vector, which it has no rule for", "与向量的乘积，该工具没有规则"
        ),
        "operator": Reason("the operator @, which it does not see", "运算符 @，该工具看不到"),
        "sizes": Reason("sizes that it computes differently", "该工具算出的尺寸不同"),
    }
)


def reason_text(key: str, per: int | None = None, lang: str = "en") -> str:
    """Returns a reason in words.

    >>> reason_text("norm", 2)
    'normalizations, 2 per element'
    """
    reason = REASONS[key]
    return (reason.zh if lang == "zh" else reason.en).format(per=per)

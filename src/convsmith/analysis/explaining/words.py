"""What explanations say in words, in English and in Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from convsmith.errors import UsageError

__all__ = [
    "LANGUAGES",
    "NOTES",
    "OPERATORS",
    "QUANTITIES",
    "SYMBOLS",
    "WORDS",
    "check_language",
    "meaning",
    "note_text",
    "operator_name",
    "quantity",
    "word",
]

LANGUAGES = ("en", "zh")

_Both = Mapping[str, tuple[str, str]]


def check_language(lang: str) -> str:
    """Returns the language.

    Raises:
        UsageError: If there are no words in it.
    """
    if lang not in LANGUAGES:
        raise UsageError(
            f"there is no language {lang!r}", place="lang", remedy=f"use {' or '.join(LANGUAGES)}"
        )
    return lang


QUANTITIES: _Both = MappingProxyType(
    {
        "shape": ("output size", "输出尺寸"),
        "params": ("parameters", "参数量"),
        "macs": ("multiply-accumulates", "乘加次数"),
        "mults": ("multiplications", "乘法次数"),
        "adds": ("additions", "加法次数"),
        "others": ("other operations", "其他运算次数"),
        "flops": ("operations", "运算总数"),
        "rf.size": ("receptive field", "感受野"),
        "rf.stride": ("effective stride", "有效步幅"),
        "rf.offset": ("first pixel seen", "感受野起点"),
        "rf.back": ("field, backwards", "感受野（反向）"),
        "textbook.mults": ("multiplications, bias as one", "乘法次数（偏置计一次）"),
        "textbook.adds": ("additions", "加法次数"),
        "textbook.madd": ("MAdd", "MAdd（乘法与加法之和）"),
    }
)

SYMBOLS: _Both = MappingProxyType(
    {
        "N": ("images in the batch", "批大小"),
        "C": ("channels", "通道数"),
        "C_in": ("input channels", "输入通道数"),
        "C_out": ("output channels", "输出通道数"),
        "D": ("depth", "深度"),
        "D_in": ("input depth", "输入深度"),
        "D_out": ("output depth", "输出深度"),
        "H": ("height", "高度"),
        "H_in": ("input height", "输入高度"),
        "H_out": ("output height", "输出高度"),
        "W": ("width", "宽度"),
        "W_in": ("input width", "输入宽度"),
        "W_out": ("output width", "输出宽度"),
        "L": ("length", "长度"),
        "L_in": ("input length", "输入长度"),
        "L_out": ("output length", "输出长度"),
        "F": ("features", "特征数"),
        "F_in": ("input features", "输入特征数"),
        "F_out": ("output features", "输出特征数"),
        "k": ("kernel size", "卷积核（窗口）大小"),
        "s": ("stride", "步幅"),
        "p": ("padding", "填充"),
        "d": ("dilation", "膨胀率"),
        "q": ("output padding", "输出填充"),
        "o": ("first pixel that output 0 sees", "输出 0 所见的第一个像素"),
        "o_in": ("first pixel that input 0 sees", "输入 0 所见的第一个像素"),
        "g": ("groups", "分组数"),
        "g_o": ("groups of offsets", "偏移分组数"),
        "u": ("factor of the size", "缩放倍数"),
        "f": ("output size", "输出尺寸"),
        "f_h": ("output height", "输出高度"),
        "f_w": ("output width", "输出宽度"),
        "r": ("size of the receptive field, in pixels", "感受野大小（像素）"),
        "r_in": ("size of the input's receptive field", "输入的感受野大小"),
        "j": (
            "effective stride: pixels from one output to the next",
            "有效步幅：相邻输出相距的像素数",
        ),
        "j_in": ("effective stride of the input", "输入的有效步幅"),
        "b": ("how much one element of the network's output sees", "网络的一个输出元素所见的范围"),
        "b_in": (
            "how much of the layer's input one element of the network's output sees",
            "网络的一个输出元素所见的本层输入范围",
        ),
        "b_out": (
            "how much of the layer's output one element of the network's output sees",
            "网络的一个输出元素所见的本层输出范围",
        ),
        "E": ("elements", "元素个数"),
        "E_in": ("input elements", "输入元素个数"),
        "E_out": ("output elements", "输出元素个数"),
        "M": ("sets of elements that belong together", "一起计算的元素组数"),
        "m": ("terms of a product, or products of a step", "求和项数，或一步中的乘积数"),
        "a": ("additions of a step", "一步中的加法数"),
        "n": ("size along an axis", "沿某轴的大小"),
        "w": ("size of a learned tensor along an axis", "可学习张量沿某轴的大小"),
        "c": ("size of a part that is joined", "被拼接部分的大小"),
        "P": ("parameters", "参数量"),
        "start": ("first position taken", "起始位置"),
        "end": ("position behind the last", "结束位置"),
        "step": ("step", "步长"),
    }
)

NOTES: _Both = MappingProxyType(
    {
        "shape-same": ("The output has the shape of the input.", "输出与输入形状相同。"),
        "shape-ceil": (
            (
                "Rounded up: the last window may be incomplete, but begins inside the input or the"
                " padding before it (else it is left out)."
            ),
            "向上取整：最后一个窗口可以不完整，但必须始于输入或其前侧填充之内，否则舍去。",
        ),
        "same-upper": (
            (
                "SAME padding: one output per stride; padding per axis {padding}, an"
                " odd element behind."
            ),
            "SAME 填充：每个步幅一个输出；各轴填充 {padding}，多出的一个放在后侧。",
        ),
        "same-lower": (
            (
                "SAME padding: one output per stride; padding per axis {padding}, an"
                " odd element before."
            ),
            "SAME 填充：每个步幅一个输出；各轴填充 {padding}，多出的一个放在前侧。",
        ),
        "shape-GlobalPool": (
            "All positions of a channel become one.",
            "每个通道的所有位置合为一个。",
        ),
        "shape-AdaptivePool": (
            "The size is given; window i runs from ⌊i H_in / H_out⌋ to ⌈(i + 1) H_in / H_out⌉.",
            "输出尺寸给定；第 i 个窗口从 ⌊i H_in / H_out⌋ 到 ⌈(i + 1) H_in / H_out⌉。",
        ),
        "shape-Fold": ("The size is given.", "输出尺寸给定。"),
        "shape-Unpool": ("The size is given.", "输出尺寸给定。"),
        "shape-Resize": ("The size is given.", "输出尺寸给定。"),
        "shape-GridSample": (
            "The output has the sizes of the grid.",
            "输出的空间尺寸与采样网格相同。",
        ),
        "shape-MatMul": (
            "(…, a, m) times (…, m, b) makes (…, a, b); leading axes are broadcast.",
            "(…, a, m) 乘 (…, m, b) 得 (…, a, b)；前面的轴按广播规则处理。",
        ),
        "shape-Einsum": (
            "The output has the axes that stand behind the arrow.",
            "输出的轴为箭头之后所列的轴。",
        ),
        "shape-Elementwise": (
            "The inputs are broadcast to one shape: every axis is equal or 1.",
            "各输入按广播规则对齐：每个轴相等或为 1。",
        ),
        "shape-Where": (
            "The inputs are broadcast to one shape: every axis is equal or 1.",
            "各输入按广播规则对齐：每个轴相等或为 1。",
        ),
        "shape-Reduce": (
            "The axes that are reduced disappear or become 1.",
            "被归约的轴消失或变为 1。",
        ),
        "shape-Split": ("Cut along axis {axis}: {sizes}.", "沿第 {axis} 轴切分：{sizes}。"),
        "shape-Reshape": (
            "The same elements in another shape: their number stays.",
            "元素不变，只改变形状：元素总数保持不变。",
        ),
        "shape-Transpose": ("The axes in another order.", "交换轴的顺序。"),
        "shape-Expand": ("Axes of size 1 are repeated.", "大小为 1 的轴被重复。"),
        "shape-DepthToSpace": (
            "Channels become positions: C / b² channels, b times the size along every axis.",
            "通道变为空间位置：通道数为 C / b²，每个空间轴放大 b 倍。",
        ),
        "shape-SpaceToDepth": (
            "Positions become channels: b² C channels, the size divided by b along every axis.",
            "空间位置变为通道：通道数为 b² C，每个空间轴缩小 b 倍。",
        ),
        "shape-Gather": ("The positions that are asked for.", "取出所指定的位置。"),
        "shape-TopK": ("As many as are asked for along the axis.", "沿该轴取指定个数。"),
        "shape-other": ("The operator says the shape.", "形状由算子给定。"),
        "free-view": (
            "Free: the same elements under another shape or name; nothing is computed.",
            "不计费：元素不变，只换形状或名称，没有任何计算。",
        ),
        "free-copy": (
            "Free: elements are only copied to other places; nothing is computed.",
            "不计费：只是把元素搬到别处，没有任何计算。",
        ),
        "unsupported": (
            "Not counted: no rule is known for this operator. {reason}",
            "未计数：没有这个算子的规则。{reason}",
        ),
        "batch-norm": (
            (
                "The stored statistics are folded into scale and shift: one multiplication and one"
                " addition per element."
            ),
            "推理时存储的统计量并入缩放与平移：每个元素一次乘法、一次加法。",
        ),
        "transposed": (
            (
                "Every input element is multiplied by every tap; products that meet are added, also"
                " those that the padding cuts away."
            ),
            "每个输入元素与卷积核的每个元素相乘；落在同一位置的乘积相加，包括被填充裁掉的部分。",
        ),
        "depthwise": (
            "Depthwise: every channel has its own kernel, so g = C_in.",
            "深度卷积：每个通道有各自的卷积核，即 g = C_in。",
        ),
        "grouped": (
            (
                "Grouped: an output channel sees C_in / g input channels, which divides parameters"
                " and multiplications by g."
            ),
            "分组卷积：每个输出通道只看 C_in / g 个输入通道，参数量与乘法次数都除以 g。",
        ),
        "pointwise": (
            "Pointwise: a 1 x 1 kernel mixes channels and sees no neighbours.",
            "逐点卷积：1 × 1 卷积核只混合通道，不看相邻像素。",
        ),
        "gate": (
            "A gate: one factor per channel multiplies all its positions (squeeze-and-excitation).",
            "门控：每个通道一个系数，乘到该通道的所有位置上（压缩与激励，SE）。",
        ),
        "attention": (
            "A product of two activations, as in attention: no learned weights.",
            "两个激活张量的乘积（如注意力中的 QKᵀ）：没有可学习的权重。",
        ),
        "field-none": ("The network has no image axes.", "网络没有图像轴。"),
        "field-unknown": ("What it sees is not known: {reason}.", "感受野未知：{reason}。"),
        "field-global": ("It sees the whole input.", "它能看到整个输入。"),
        "field-constant": (
            "Every position sees the same pixels.",
            "每个位置看到的像素相同。",
        ),
        "field-same": ("It sees what its input sees.", "感受野与其输入相同。"),
        "field-phases": (
            (
                "No single recursion holds here (branches, or fields that differ by the phase of"
                " the output); the union of all is r = {r}, j = {j}, o = {o}."
            ),
            (
                "此处没有单一的递推公式（有分支，或感受野随输出相位变化）；"
                "取并集得 r = {r}，j = {j}，o = {o}。"
            ),
        ),
        "field-offset": ("The first pixel seen is {o}.", "感受野起点为 {o}。"),
        "field-gate": (
            "Besides, one path sees the whole input.",
            "此外还有一条路径能看到整个输入。",
        ),
        "field-gate-axis": (
            "Along one axis it sees all of the input.",
            "它在某个轴上能看到整个输入。",
        ),
        "field-together": (
            "No rule says what each position sees; all of them together see r = {r}, o = {o}.",
            "没有规则说明每个位置看到什么；所有位置合起来看到 r = {r}，o = {o}。",
        ),
        "field-bound": (
            "An upper bound: {reason}.",
            "这是上界：{reason}。",
        ),
    }
)

OPERATORS: _Both = MappingProxyType(
    {
        "Conv": ("convolution", "卷积"),
        "Conv.transposed": ("transposed convolution", "转置卷积"),
        "Conv.depthwise": ("depthwise convolution", "深度卷积"),
        "Conv.grouped": ("grouped convolution", "分组卷积"),
        "Conv.pointwise": ("pointwise convolution", "逐点卷积"),
        "DeformConv": ("deformable convolution", "可变形卷积"),
        "Linear": ("fully connected layer", "全连接层"),
        "MatMul": ("matrix product", "矩阵乘法"),
        "Einsum": ("Einstein summation", "爱因斯坦求和"),
        "Pool.max": ("max pooling", "最大池化"),
        "Pool.average": ("average pooling", "平均池化"),
        "GlobalPool.max": ("global max pooling", "全局最大池化"),
        "GlobalPool.average": ("global average pooling", "全局平均池化"),
        "AdaptivePool.max": ("adaptive max pooling", "自适应最大池化"),
        "AdaptivePool.average": ("adaptive average pooling", "自适应平均池化"),
        "Unpool": ("unpooling", "反池化"),
        "Norm.batch": ("batch normalization", "批归一化"),
        "Norm.instance": ("instance normalization", "实例归一化"),
        "Norm.group": ("group normalization", "组归一化"),
        "Norm.layer": ("layer normalization", "层归一化"),
        "Norm.rms": ("RMS normalization", "均方根归一化"),
        "LocalResponseNorm": ("local response normalization", "局部响应归一化"),
        "Activation": ("activation", "激活函数"),
        "Unary": ("elementwise function", "逐元素函数"),
        "Elementwise": ("elementwise operation", "逐元素运算"),
        "Elementwise.add": ("addition", "逐元素相加"),
        "Elementwise.mul": ("multiplication", "逐元素相乘"),
        "Where": ("choice", "按条件选择"),
        "Softmax": ("softmax", "softmax"),
        "Concat": ("concatenation", "拼接"),
        "Split": ("split", "切分"),
        "Slice": ("slice", "切片"),
        "Pad": ("padding", "填充"),
        "Reshape": ("reshape", "变形"),
        "Flatten": ("flatten", "展平"),
        "Transpose": ("transposition", "转置"),
        "Expand": ("expansion", "扩展"),
        "Flip": ("reversal", "翻转"),
        "Gather": ("gathering", "按索引取值"),
        "DepthToSpace": ("pixel shuffle", "像素重排"),
        "SpaceToDepth": ("pixel unshuffle", "像素逆重排"),
        "Resize": ("interpolation", "插值"),
        "GridSample": ("grid sampling", "网格采样"),
        "Unfold": ("unfolding (im2col)", "窗口展开（im2col）"),
        "Fold": ("folding (col2im)", "窗口折叠（col2im）"),
        "Reduce": ("reduction", "归约"),
        "Cumulate": ("running sum", "累积运算"),
        "TopK": ("largest elements", "取最大若干项"),
        "Cast": ("type conversion", "类型转换"),
        "Identity": ("identity", "恒等"),
        "Identity.dropout": ("dropout, idle at inference", "随机失活（推理时不起作用）"),
        "Unsupported": ("unknown operator", "未知算子"),
    }
)

WORDS: _Both = MappingProxyType(
    {
        "symbols": ("Symbols", "符号"),
        "input": ("input", "输入"),
        "output": ("output", "输出"),
        "layer": ("layer", "层"),
        "layers": ("layers", "层"),
        "difference": ("From the exact count to that of {tool}", "从精确计数到 {tool} 的计数"),
        "exact": ("exact multiply-accumulates", "精确乘加次数"),
        "counted.macs": ("{tool}, multiply-accumulates", "{tool}，乘加次数"),
        "counted.flops": ("{tool}, operations", "{tool}，运算次数"),
        "none": ("The tool counts exactly the same.", "该工具的计数与精确值完全相同。"),
        "params": (
            "Parameters: {counted} instead of {exact} distinct ones.",
            "参数量：计为 {counted}，实际不同的参数为 {exact}。",
        ),
        "params-same": ("Parameters: {exact}, the same.", "参数量：{exact}，相同。"),
        "counts": ("{tool} counts", "{tool} 的计数"),
        "nothing": ("nothing", "无"),
        "products": ("multiply-accumulates", "乘加"),
        "formula": ("formula", "公式"),
        "term": ("term", "项"),
        "amount": ("amount", "数量"),
        "explanation": ("Explanation", "公式说明"),
        "total": ("total", "合计"),
    }
)


def _pick(table: _Both, key: str, lang: str) -> str:
    return table[key][LANGUAGES.index(lang)]


def word(key: str, lang: str, **values: str) -> str:
    """A word or sentence of the pages."""
    return _pick(WORDS, key, lang).format(**values)


def quantity(key: str, lang: str) -> str:
    """The name of a quantity."""
    return _pick(QUANTITIES, key, lang)


def note_text(key: str, lang: str, **values: str) -> str:
    """A note; a shape that has none of its own is said by the operator."""
    found = key if key in NOTES else "shape-other"
    return _pick(NOTES, found, lang).format(**values)


def operator_name(key: str, lang: str) -> str:
    """What an operator is called; ``Class.kind``, or the class where the kind has no word.

    >>> operator_name("Pool.max", "zh")
    '最大池化'
    """
    found = key if key in OPERATORS else key.partition(".")[0]
    return _pick(OPERATORS, found, lang) if found in OPERATORS else found


def meaning(symbol: str, lang: str) -> str:
    """What a symbol stands for; an index that only names an axis or a side is looked through.

    >>> meaning("k_h", "en"), meaning("C_in", "zh")
    ('kernel size', '输入通道数')
    """
    found = symbol if symbol in SYMBOLS else symbol.partition("_")[0]
    return _pick(SYMBOLS, found, lang) if found in SYMBOLS else ""

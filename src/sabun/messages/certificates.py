"""What a certificate says, in English and Japanese: all sentences in one place.

Both languages have the same keys and placeholders. λ is a curvature of the loss, h the learning rate; a reader who
knows neither symbol can still act on the sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from sabun.errors import OptionError, unknown

__all__ = ["LANGUAGES", "Language", "say"]

Language = Literal["en", "ja"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

_EN: Mapping[str, str] = {
    # sentences
    "accuracy": "{name} follows the gradient flow to order {order} with error constant {constant}.",
    "stable": "It is stable up to hλ = {interval}; a curvature above {interval}/lr makes it {fail}.",
    "oscillates": "oscillate and diverge",
    "grows": "diverge",
    "stable_at": "It is stable up to hλ = {interval}; at learning rate {lr} a curvature above {curvature} makes "
    "it {fail}.",
    "quieter": "Gradient noise leaves the weights scattered {percent}% less than plain SGD does at the same "
    "learning rate "
    "(standard deviation, at hλ = {at}).",
    "louder": "Gradient noise leaves the weights scattered {percent}% more than plain SGD does at the same "
    "learning rate "
    "(standard deviation, at hλ = {at}).",
    "as_loud": "Gradient noise leaves the weights scattered as much as plain SGD does at the same learning rate "
    "(standard deviation, at hλ = {at}).",
    "noise_unstable": "At hλ = {at}, where noise is compared, it is already unstable.",
    "cost_multistep": "A step costs one gradient and keeps {copies} the size of the weights.",
    "cost_runge_kutta": "A step costs {gradients}, all on the same mini-batch, and keeps nothing between steps: "
    "per gradient it reaches hλ = {per_gradient}.",
    "copies_0": "no buffer",
    "copies_1": "one buffer",
    "copies_n": "{count} buffers",
    "gradients_1": "one gradient",
    "gradients_n": "{count} gradients",
    "not_zero_stable": "{name} must not be used for training: its parasitic root {root} lies outside the unit "
    "circle, so "
    "rounding errors and gradient noise grow without bound, however small the learning rate.",
    "weakly_stable": "{name} must not be used for training: its parasitic root {root} lies on the unit circle, "
    "so errors "
    "never decay, and with any positive curvature they grow.",
    # the table
    "scheme": "scheme",
    "what": "what it is",
    "order": "order of accuracy",
    "embedded_order": "order of the embedded companion",
    "error_constant": "error constant",
    "zero_stable": "zero-stable",
    "usable": "usable for training",
    "parasitic": "largest parasitic root",
    "interval": "stability interval (hλ)",
    "per_gradient": "stability interval per gradient",
    "noise": "noise gain at hλ = {at} (Euler = 1)",
    "gradients": "gradients per step",
    "gradients_controlled": "{count} ({controlled} with error control)",
    "state": "buffers between steps",
    "work": "buffers during a step",
    "start_up": "start-up",
    "source": "source",
    "coefficients": "coefficients",
    "yes": "yes",
    "no": "no",
    "none": "none",
    "unbounded": "unbounded",
    # the command line
    "caption": "order, error constant: accuracy. hλ stable to: learning rate × curvature that it bears. "
    "noise: variance under gradient noise at hλ = 0.05, Euler = 1. grads: gradients a step. "
    "bufs: buffers kept, each the size of the weights.",
    "order_short": "order",
    "constant_short": "error const.",
    "interval_short": "hλ stable to",
    "noise_short": "noise",
    "gradients_short": "grads",
    "state_short": "bufs",
    "refused": "refused",
    "alternative": "Use {name} instead.",
    "in_torch": "In torch this is {call}: there the learning rate is multiplied by 1−β.",
    "metric_note": "With a preconditioner such as adam or spectral, the curvature is the one seen in that metric.",
    # start-up
    "rest": "at rest: no history, as in torch",
    "unbiased": "at rest, corrected for its bias",
    "hold": "as if the first gradient had always been there",
}

_JA: Mapping[str, str] = {
    "accuracy": "{name} は、勾配流を{order}次の精度（誤差定数 {constant}）でたどる手法です。",
    "stable": "安定なのは hλ = {interval} までで、曲率が {interval}/lr（lr は学習率）を超える方向があると、{fail}。",
    "oscillates": "振動して発散します",
    "grows": "発散します",
    "stable_at": "安定なのは hλ = {interval} までで、学習率 {lr} では、曲率が {curvature} を超える方向があると、"
    "{fail}。",
    "quieter": "勾配ノイズによる重みのばらつき（標準偏差）は、同じ学習率の通常の SGD より {percent}% "
    "小さくなります（hλ = {at} での比較）。",
    "louder": "勾配ノイズによる重みのばらつき（標準偏差）は、同じ学習率の通常の SGD より {percent}% "
    "大きくなります（hλ = {at} での比較）。",
    "as_loud": "勾配ノイズによる重みのばらつき（標準偏差）は、同じ学習率の通常の SGD と同程度です（hλ = {at} "
    "での比較）。",
    "noise_unstable": "ノイズを比較する hλ = {at} では、すでに不安定です。",
    "cost_multistep": "1ステップあたりの勾配計算は1回、重みと同じ大きさの補助メモリは{copies}です。",
    "cost_runge_kutta": "1ステップあたりの勾配計算は{gradients}（同じミニバッチを使用）で、"
    "ステップをまたいで保持するメモリはありません。"
    "勾配1回あたりの安定区間は hλ = {per_gradient} です。",
    "copies_0": "不要",
    "copies_1": "1個",
    "copies_n": "{count}個",
    "gradients_1": "1回",
    "gradients_n": "{count}回",
    "not_zero_stable": "{name} は学習に使えません。余分な根 {root} が単位円の外にあるため、"
    "学習率をどれほど小さくしても、"
    "丸め誤差や勾配ノイズが際限なく増幅されます。",
    "weakly_stable": "{name} は学習に使えません。余分な根 {root} が単位円上にあるため、誤差が減衰せず、"
    "曲率が少しでも正であれば増大します。",
    "scheme": "手法",
    "what": "概要",
    "order": "精度の次数",
    "embedded_order": "埋め込み公式の次数",
    "error_constant": "誤差定数",
    "zero_stable": "ゼロ安定",
    "usable": "学習に使用可能",
    "parasitic": "最大の余分な根（絶対値）",
    "interval": "安定区間（hλ）",
    "per_gradient": "勾配1回あたりの安定区間",
    "noise": "hλ = {at} でのノイズ増幅率（オイラー法 = 1）",
    "gradients": "1ステップの勾配計算回数",
    "gradients_controlled": "{count}（誤差制御ありの場合は{controlled}）",
    "state": "ステップ間で保持するバッファ数",
    "work": "ステップ中に使うバッファ数",
    "start_up": "始動方法",
    "source": "出典",
    "coefficients": "係数",
    "yes": "はい",
    "no": "いいえ",
    "none": "なし",
    "unbounded": "無限大",
    "caption": "次数・誤差定数：精度。安定上限：耐えられる「学習率 × 曲率」。"
    "ノイズ：hλ = 0.05 での分散（オイラー法 = 1）。"
    "勾配：1ステップの勾配計算回数。保持：重みと同じ大きさのバッファ数。",
    "order_short": "次数",
    "constant_short": "誤差定数",
    "interval_short": "安定上限 hλ",
    "noise_short": "ノイズ",
    "gradients_short": "勾配",
    "state_short": "保持",
    "refused": "使用不可",
    "alternative": "代わりに {name} をお使いください。",
    "in_torch": "torch では {call} に相当します（torch の学習率は 1−β 倍になります）。",
    "metric_note": "adam や spectral などの前処理を使う場合、曲率はその計量で見た値を指します。",
    "rest": "静止状態から（履歴なし、torch と同じ）",
    "unbiased": "静止状態から（バイアス補正あり）",
    "hold": "最初の勾配が以前から続いていたとみなす",
}

_TEXTS: Mapping[str, Mapping[str, str]] = {"en": _EN, "ja": _JA}


def say(key: str, lang: str, **values: object) -> str:
    """The text ``key`` in ``lang``, with its placeholders filled. Raises OptionError for a language that is not "
    "there."""
    if lang not in _TEXTS:
        raise unknown(OptionError, "language", lang, LANGUAGES)
    return _TEXTS[lang][key].format(**values)

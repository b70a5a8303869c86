/* Sliders for β, γ and hλ of the look-ahead plane: v ← βv − (1−β)(g + γ(g − g_prev)), θ ← θ + hv, with g = λθ. */
(() => {
  const words = {
    en: {beta: "β, decay of the velocity", gamma: "γ, weight of the last change of the gradient", x: "hλ, step × curvature",
      interval: "stability interval", order: "order", error: "error constant", size: "largest |ζ|, factor per step",
      path: "θ from 1, over 60 steps", yes: "stable", no: "unstable"},
    ja: {beta: "β（速度の減衰率）", gamma: "γ（勾配の直近の変化に掛ける重み）", x: "hλ（刻み × 曲率）",
      interval: "安定区間", order: "次数", error: "誤差定数", size: "最大の |ζ|（1ステップの倍率）",
      path: "1から始めた θ の60ステップ", yes: "安定", no: "不安定"},
  };

  /* The certificate at (β, γ), and the largest root of ζ² − (1+β)ζ + β + x(1−β)((1+γ)ζ − γ) = 0. */
  const plane = window.sabunPlane = (beta, gamma, x) => {
    const b = x * (1 - beta) * (1 + gamma) - (1 + beta), c = beta - x * (1 - beta) * gamma, inside = b * b - 4 * c;
    const error = 0.5 + beta / (1 - beta) - gamma;
    return {
      interval: 2 * (1 + beta) / ((1 - beta) * (1 + 2 * gamma)), error, order: Math.abs(error) < 1e-9 ? 2 : 1,
      size: inside < 0 ? Math.sqrt(c) : (Math.abs(b) + Math.sqrt(inside)) / 2,
    };
  };

  const path = (beta, gamma, x) => {
    const points = [1];
    let theta = 1, v = 0, before = 1;
    for (let n = 0; n < 60; n++) {
      v = beta * v - (1 - beta) * (theta + gamma * (theta - before));
      before = theta;
      theta += x * v;
      points.push(theta);
    }
    return points;
  };

  const shown = value => Number(value.toPrecision(3)).toString().replace("-", "−");
  for (const place of document.querySelectorAll(".plane")) {
    const say = words[place.dataset.lang];
    const slider = (name, min, max, step, value) =>
      `<label>${say[name]} <output></output><input type="range" name="${name}" min="${min}" max="${max}" step="${step}" value="${value}"></label>`;
    place.innerHTML = `${slider("beta", 0, 0.98, 0.01, 0.9)}${slider("gamma", 0, 10, 0.1, 2)}${slider("x", -1.5, 1.7, 0.01, 0)}
      <svg viewBox="0 0 600 220" preserveAspectRatio="none" role="img" aria-label="${say.path}"><path d="M0 110H600" class="axis"/><path class="line"/></svg>
      <p>${say.path}</p><table><tr>${["interval", "order", "error", "size"].map(key => `<th>${say[key]}</th>`).join("")}</tr>
      <tr>${'<td data-value></td>'.repeat(4)}</tr></table>`;
    const draw = () => {
      const [beta, gamma, log] = [...place.querySelectorAll("input")].map(input => Number(input.value)), x = 10 ** log;
      const found = plane(beta, gamma, x);
      [beta, gamma, x].forEach((value, i) => { place.querySelectorAll("output")[i].textContent = `= ${shown(value)}`; });
      const stable = `${shown(found.size)} (${found.size < 1 ? say.yes : say.no})`;
      [shown(found.interval), found.order, shown(found.error), stable]
        .forEach((value, i) => { place.querySelectorAll("[data-value]")[i].textContent = value; });
      const clip = y => Math.max(-1e3, Math.min(1e3, 110 - 50 * y));
      place.querySelector(".line").setAttribute("d", "M" + path(beta, gamma, x).map((y, n) => `${n * 10} ${clip(y).toFixed(1)}`).join("L"));
      place.querySelector(".line").classList.toggle("unstable", found.size >= 1);
    };
    place.addEventListener("input", draw);
    draw();
  }
})();

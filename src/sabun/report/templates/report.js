// The page is complete without this script. It adds: language switch, hover values, arms on and off, larger charts and
// their files, hints at wide tables, print.
(() => {
  "use strict";
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  root.classList.add("js");

  const show = (lang) => {
    root.dataset.lang = lang;
    root.lang = lang;
    document.title = root.getAttribute(`data-title-${lang}`);
    document.querySelectorAll("[data-set-lang]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.setLang === lang)));
    document.querySelectorAll("time[datetime]").forEach((t) => moment(t, lang));
    hide();
  };
  // A moment in the time zone of the reader, in each language of the page.
  const moment = (t, lang) => {
    const when = new Date(t.dateTime);
    const span = t.querySelector(`span[lang="${lang}"]`) ?? t.querySelector("span");
    if (!span || isNaN(when)) return;
    const parts = { year: "numeric", month: "long", day: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" };
    span.textContent = when.toLocaleString(lang, parts);
  };
  document.querySelectorAll("[data-set-lang]").forEach((b) => b.addEventListener("click", () => show(b.dataset.setLang)));
  document.querySelectorAll(".print").forEach((b) =>
    b.addEventListener("click", () => {
      root.dataset.paper = b.dataset.paper;
      window.print();
    })
  );

  const off = new Set();
  document.querySelectorAll(".legend button").forEach((b) => {
    b.addEventListener("click", () => {
      const i = b.dataset.toggle;
      off.has(i) ? off.delete(i) : off.add(i);
      b.setAttribute("aria-pressed", String(!off.has(i)));
      document.querySelectorAll(`.curves [data-series="${i}"]`).forEach((g) => g.classList.toggle("off", off.has(i)));
      hide();
    });
  });

  let cursor = null;
  const hide = () => {
    tip.hidden = true;
    if (cursor) cursor.setAttribute("hidden", "hidden");
  };
  const place = (x, y) => {
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 16 + box.width > innerWidth - 8 ? x - 16 - box.width : x + 16;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, Math.min(y - box.height / 2, innerHeight - box.height - 8))}px`;
  };

  // Learning curves: the nearest recorded epoch of every visible arm at the pointer.
  const curve = (hit, share, clientX, clientY) => {
    const axis = hit.dataset.curves;
    const at = share * Number(hit.dataset.max);
    const words = data.words[root.dataset.lang];
    let best = null;
    const rows = [];
    data.arms.forEach((arm, i) => {
      if (off.has(String(i)) || !arm[axis].length) return;
      let near = 0;
      arm[axis].forEach((v, k) => {
        if (v !== null && Math.abs(v - at) < Math.abs((arm[axis][near] ?? Infinity) - at)) near = k;
      });
      if (best === null || Math.abs(arm[axis][near] - at) < Math.abs(best - at)) best = arm[axis][near];
      if (axis === "seconds" && at > arm[axis][arm[axis].length - 1] * 1.02) return;
      rows.push([i, arm.name[root.dataset.lang], arm.median[near], [arm.low[near], arm.high[near]]]);
    });
    if (best === null) return;
    rows.sort((a, b) => Number(a[2]) - Number(b[2]));
    tip.replaceChildren();
    const local = (number) => number.replace(/[.,]/g, (c) => (c === "." ? words.decimal : words.thousands));
    const title = document.createElement("b");
    title.textContent = axis === "epoch" ? `${words.epoch} ${best}` : `${words.seconds}: ${local(best.toFixed(2))}`;
    const table = document.createElement("table");
    rows.forEach(([i, name, median, range]) => {
      const row = table.insertRow();
      const chip = document.createElement("span");
      chip.className = `chip s${i === 0 ? 0 : ((i - 1) % 7) + 1}`;
      const cell = row.insertCell();
      cell.append(chip, name.length > 24 ? name.slice(0, 23) + "…" : name);
      row.insertCell().textContent = local(median);
      row.insertCell().textContent = range.map(local).join(" – ");
    });
    tip.append(title, table);
    hide();
    cursor = hit.previousElementSibling;
    const x = Number(hit.dataset.x0) + (best / Number(hit.dataset.max)) * (Number(hit.dataset.x1) - Number(hit.dataset.x0));
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.removeAttribute("hidden");
    place(clientX, clientY);
  };
  // By delegation: a chart that is enlarged is a copy.
  const shares = new WeakMap();
  const over = (hit, clientX, clientY) => {
    const box = hit.getBoundingClientRect();
    shares.set(hit, Math.min(1, Math.max(0, (clientX - box.left) / box.width)));
    curve(hit, shares.get(hit), clientX, clientY);
  };
  ["pointermove", "pointerdown"].forEach((kind) =>
    document.addEventListener(kind, (e) => {
      const hit = e.target.closest?.("[data-curves]");
      if (hit) over(hit, e.clientX, e.clientY);
    })
  );
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (e) => {
    const hit = e.target.closest?.("[data-curves]");
    const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!hit || !step) return;
    e.preventDefault();
    const longest = Math.max(...data.arms.map((arm) => arm.epoch.length - 1), 1);
    const share = Math.min(1, Math.max(0, (shares.get(hit) ?? 1) + step / longest));
    shares.set(hit, share);
    const box = hit.getBoundingClientRect();
    curve(hit, share, box.left + share * box.width, box.top + 40);
  });

  document.addEventListener("pointerover", (e) => {
    const mark = e.target.closest?.("[data-tip]");
    if (!mark) {
      if (!e.target.closest?.("[data-curves]")) hide();
      return;
    }
    const lang = root.dataset.lang;
    tip.textContent = mark.getAttribute(`data-tip-${lang}`);
    place(e.clientX, e.clientY);
  });
  addEventListener("scroll", hide, { passive: true });

  // Charts: the other scale, larger, and as a file.
  const drawn = (figure) => [...figure.querySelectorAll("svg.chart")].find((svg) => svg.getClientRects().length);
  const tool = (what, act) =>
    document.querySelectorAll(`[${what}]`).forEach((b) => b.addEventListener("click", () => act(b.closest("figure"), b)));
  tool("data-switch-scale", (figure) => {
    figure.querySelectorAll("[data-scale]").forEach((d) => (d.hidden = !d.hidden));
    hide();
  });
  // The curve of each seed, in the frame of its chart.
  tool("data-seeds", (figure, b) => {
    const on = b.getAttribute("aria-pressed") !== "true";
    b.setAttribute("aria-pressed", String(on));
    figure.querySelectorAll("svg.curves").forEach((svg) => {
      svg.querySelectorAll(".seed").forEach((path) => path.remove());
      const hit = svg.querySelector("[data-curves]");
      if (!on || !hit) return;
      const { curves: axis, x0, x1, max, low, high, log } = hit.dataset;
      const map = log === "1" ? Math.log : (v) => v;
      const [top, size] = [Number(hit.getAttribute("y")), Number(hit.getAttribute("height"))];
      data.arms.forEach((arm, i) => {
        const group = svg.querySelector(`[data-series="${i}"]`);
        arm.seeds.forEach((losses) => {
          let text = "";
          let pen = "M";
          losses.forEach((v, k) => {
            const at = arm[axis][arm.seed_at[k]];
            if (v === null || at === null || at === undefined || (log === "1" && v <= 0)) return (pen = "M");
            const share = (map(v) - map(Number(low))) / (map(Number(high)) - map(Number(low)));
            const y = top + size * (1 - Math.min(1, Math.max(0, share)));
            text += `${pen}${(Number(x0) + (at / Number(max)) * (Number(x1) - Number(x0))).toFixed(1)} ${y.toFixed(1)}`;
            pen = "L";
          });
          const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
          path.setAttribute("d", text || "M0 0");
          path.setAttribute("class", "seed");
          group.append(path);
        });
      });
    });
  });
  const dialog = document.getElementById("zoom");
  tool("data-zoom", (figure) => {
    const copy = drawn(figure).cloneNode(true);
    copy.style.maxWidth = "none";
    dialog.lastElementChild.replaceChildren(copy);
    dialog.insertBefore(tip, dialog.lastElementChild);  // outside it would be covered
    dialog.showModal();
  });
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    hide();
    document.body.append(tip);
  });
  const STYLES = [
    "fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity",
    "font-size", "font-weight", "font-family", "paint-order",
  ];
  const standalone = (svg) => {
    const copy = svg.cloneNode(true);
    const own = [svg, ...svg.querySelectorAll("*")];
    [copy, ...copy.querySelectorAll("*")].forEach((node, i) => {
      const style = getComputedStyle(own[i]);
      if (style.display === "none" || node.matches(".hit,.cursor")) {
        node.dataset.drop = "";
        return;
      }
      STYLES.forEach((name) => node.style.setProperty(name, style.getPropertyValue(name)));
      [...node.attributes].forEach((a) => (a.name.startsWith("data-") || a.name === "class") && node.removeAttribute(a.name));
    });
    copy.querySelectorAll("[data-drop]").forEach((node) => node.remove());
    const { width, height } = svg.viewBox.baseVal;
    const paper = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    paper.setAttribute("width", width);
    paper.setAttribute("height", height);
    paper.setAttribute("fill", getComputedStyle(svg.closest(".card") ?? document.body).backgroundColor);
    copy.prepend(paper);
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    copy.removeAttribute("aria-labelledby");
    copy.style.removeProperty("max-width");
    return { text: new XMLSerializer().serializeToString(copy), width, height };
  };
  const save = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);  // a busy browser begins to save after seconds
  };
  tool("data-save", (figure, b) => {
    const { text, width, height } = standalone(drawn(figure));
    const study = document.title.replace(/[\\/:*?"<>|\s]+/g, "-").slice(0, 80);
    const name = `${study}-${b.parentElement.dataset.name}.${b.dataset.save}`;
    if (b.dataset.save === "svg") return save(new Blob([text], { type: "image/svg+xml" }), name);
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [3 * width, 3 * height];
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => save(blob, name), "image/png");
    };
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  });

  // Tables that are wider than the screen say so.
  const swipe = document.getElementById("swipe").content;
  const tables = [...document.querySelectorAll(".scroll")];
  tables.forEach((box) => box.prepend(swipe.cloneNode(true)));
  const measure = () => tables.forEach((box) => {
    box.classList.toggle("wider", box.scrollWidth > box.clientWidth + 1);
    box.classList.toggle("more", box.scrollWidth > box.clientWidth + box.scrollLeft + 1);
  });
  tables.forEach((box) => box.addEventListener("scroll", measure, { passive: true }));
  document.querySelectorAll("details").forEach((d) => d.addEventListener("toggle", measure));
  addEventListener("resize", measure);

  const known = [...document.querySelectorAll("[data-set-lang]")].map((b) => b.dataset.setLang);
  const wanted = "byBrowser" in root.dataset ? navigator.languages.map((l) => l.split("-")[0]) : [];
  show(wanted.find((l) => known.includes(l)) ?? root.dataset.lang);
  measure();

  // On paper nothing can be unfolded: print with every table open.
  let closed = [];
  addEventListener("beforeprint", () => {
    hide();
    closed = [...document.querySelectorAll("details:not([open]):not(.raw)")];
    closed.forEach((d) => (d.open = true));
  });
  addEventListener("afterprint", () => {
    closed.forEach((d) => (d.open = false));
    delete root.dataset.paper;
  });
})();

// The page is complete without this script. It adds: language switch, hover values, arms on and off, print.
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
  document.querySelector(".print").addEventListener("click", () => window.print());

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
  document.querySelectorAll("[data-curves]").forEach((hit) => {
    let share = 1;
    hit.addEventListener("pointermove", (e) => {
      const box = hit.getBoundingClientRect();
      share = Math.min(1, Math.max(0, (e.clientX - box.left) / box.width));
      curve(hit, share, e.clientX, e.clientY);
    });
    hit.addEventListener("pointerleave", hide);
    hit.addEventListener("blur", hide);
    hit.addEventListener("keydown", (e) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
      if (!step) return;
      e.preventDefault();
      const longest = Math.max(...data.arms.map((arm) => arm.epoch.length - 1), 1);
      share = Math.min(1, Math.max(0, share + step / longest));
      const box = hit.getBoundingClientRect();
      curve(hit, share, box.left + share * box.width, box.top + 40);
    });
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

  const known = [...document.querySelectorAll("[data-set-lang]")].map((b) => b.dataset.setLang);
  const wanted = "byBrowser" in root.dataset ? navigator.languages.map((l) => l.split("-")[0]) : [];
  show(wanted.find((l) => known.includes(l)) ?? root.dataset.lang);

  // On paper nothing can be unfolded: print with every table open.
  let closed = [];
  addEventListener("beforeprint", () => {
    hide();
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((d) => (d.open = true));
  });
  addEventListener("afterprint", () => closed.forEach((d) => (d.open = false)));
})();

/* The answer explorer: rows of answers-data.js, chosen by plain form controls; the address holds the choice. */
(() => {
  const data = window.textregAnswers;
  const form = document.getElementById("explorer");
  if (!data || !form) return;
  const body = document.querySelector("#explorer-table tbody");
  const more = document.getElementById("explorer-more");
  const count = document.getElementById("explorer-count");
  const names = ["picture", "language", "system", "arm", "filter"];
  const CONTENT = ["wrong", "right", "–"];
  const PAGE = 60;
  let shown = PAGE;

  const wanted = {
    "": () => true,
    wrong: (row) => row.kind === "asked" && row.content === 0,
    good: (row) => row.kind === "asked" && row.content === 1,
    english: (row) => row.kind === "english" && row.code !== "en",
    elsewhere: (row) => row.kind !== "asked" && row.content === 1,
    mixed: (row) => row.kind === "mixed",
  };

  function* rows(choice) {
    let place = -1;
    for (const [p, [item]] of data.pictures.entries())
      for (const [l, [code]] of data.languages.entries())
        for (const [a, [arm]] of data.arms.entries())
          for (const system of data.systems) {
            place += 1;
            const packed = data.rows[place];
            if (packed < 0) continue;
            const [text, signs, kind, gloss] = data.texts[Math.floor(packed / 3)];
            const row = { p, l, a, code, system, text, signs, kind, gloss: data.strings[gloss], content: packed % 3 };
            const fits =
              (!choice.picture || choice.picture === item) && (!choice.language || choice.language === code) &&
              (!choice.system || choice.system === system) && (!choice.arm || choice.arm === arm);
            if (fits && wanted[choice.filter](row)) yield row;
          }
  }

  const made = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  function drawn(row) {
    const answer = made("td", { lang: row.code });
    row.text.split(/\s+/).forEach((word, place) => {
      const sign = row.signs[place];
      answer.append(sign === "e" || sign === "f" ? made("mark", { class: sign === "e" ? "english" : "foreign" }, word) : word, " ");
    });
    if (!row.text) answer.append("(empty)");
    if (row.gloss) answer.append(made("br"), made("span", { class: "first-gloss", lang: "en" }, row.gloss));
    const thumb = made("span", {
      class: "explorer-thumb", role: "img", "aria-label": data.pictures[row.p][1],
      style: `background-position: ${-48 * row.p}px 0`,
    });
    const [context, question] = data.prompts[(row.p * data.languages.length + row.l) * data.arms.length + row.a];
    const asked = made("td", {}, data.languages[row.l][1], made("br"),
      made("span", { class: "first-gloss", lang: row.code }, [data.strings[context], data.strings[question]].filter(Boolean).join(" ")));
    return made("tr", {}, made("td", {}, thumb), asked, made("td", {}, made("code", {}, row.system)), answer,
      made("td", {}, data.classes[row.kind] || "–"), made("td", {}, CONTENT[row.content]));
  }

  function show() {
    const choice = Object.fromEntries(names.map((name) => [name, form.elements[name].value]));
    const found = [...rows(choice)];
    body.replaceChildren(...found.slice(0, shown).map(drawn));
    more.hidden = found.length <= shown;
    count.textContent = found.length === 1 ? "1 answer" : `${found.length} answers` + (more.hidden ? "" : `, the first ${shown} below`);
    const kept = new URLSearchParams(Object.entries(choice).filter(([name, value]) => value || name === "arm"));
    history.replaceState(null, "", `#${kept}`);
  }

  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    if (![...given.keys()].some((name) => names.includes(name))) {
      // What the page is about comes first: a request that BM answers in English.
      const lost = rows({ system: "BM", arm: "image", filter: "english" }).next().value;
      given.set("picture", data.pictures[lost ? lost.p : 0][0]);
      if (lost) given.set("language", lost.code);
    }
    form.reset();
    for (const name of names) {
      const options = [...form.elements[name].options].map((option) => option.value);
      if (given.has(name) && options.includes(given.get(name))) form.elements[name].value = given.get(name);
    }
    shown = PAGE;
    show();
  }

  form.addEventListener("change", () => { shown = PAGE; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("click", (event) => {
    if (event.target.dataset.again) { location.hash = ""; read(); }
    const step = Number(event.target.dataset.step);
    if (!step) return;
    const select = form.elements.picture;
    const last = select.options.length - 1;
    select.selectedIndex = select.selectedIndex + step < 1 ? last : select.selectedIndex + step > last ? 1 : select.selectedIndex + step;
    shown = PAGE;
    show();
  });
  more.addEventListener("click", () => { shown += PAGE; show(); });
  window.addEventListener("hashchange", read);
  form.hidden = false;
  read();
})();

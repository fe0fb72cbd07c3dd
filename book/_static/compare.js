/* Before and after: the pictures of .lip-compare laid over one another, what is said of them below, with a slider, and
   with tabs where there are several after-pictures. Without this script they stand below one another. */
(() => {
  "use strict";
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const set_up = (figure, number) => {
    const before = figure.querySelector(".lip-before");
    const afters = [...figure.querySelectorAll(".lip-after")];
    if (!before || !afters.length) return;
    const stage = make("div", { class: "lip-stage" });
    const line = make("div", { class: "lip-line", "aria-hidden": "true" });
    const slider = make("input", {
      type: "range", min: "0", max: "100", value: "50", id: `lip-compare-${number}`,
      "aria-label": "Where the clean image ends and the attacked one begins",
    });
    let current;
    const place = () => {
      const share = Number(slider.value);
      stage.style.setProperty("--cut", `${share}%`);
      slider.setAttribute("aria-valuetext", `left ${share} % clean, right ${100 - share} % under ${current.dataset.label}`);
    };
    const choose = (after) => {
      current = after;
      afters.forEach((each) => { each.hidden = said.get(each).hidden = each !== after; });
      place();
    };
    before.parentNode.insertBefore(stage, before);
    stage.append(before, ...afters, line);
    const said = new Map([before, ...afters].map((side) => [side, side.querySelector("p")]));
    stage.after(make("div", { class: "lip-said" }, ...said.values()), make("p", { class: "lip-slide" }, slider));
    slider.addEventListener("input", place);
    const drag = (event) => {
      const box = stage.getBoundingClientRect();
      slider.value = String(Math.round(100 * (event.clientX - box.left) / box.width));
      place();
    };
    stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
    stage.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
    if (afters.length > 1) {
      const set = make("fieldset", { class: "lip-tabs" }, make("legend", {}, figure.dataset.legend || "Attack"));
      afters.forEach((after, i) => {
        const button = make("input", { type: "radio", name: `lip-tab-${number}`, ...(i ? {} : { checked: "" }) });
        button.addEventListener("change", () => choose(after));
        set.append(make("label", {}, button, ` ${after.dataset.label}`));
      });
      figure.prepend(set);
    }
    figure.classList.add("lip-ready");
    choose(afters[0]);
  };
  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".lip-compare").forEach(set_up));
})();

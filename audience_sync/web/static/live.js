// Keeps the page current: fetches it again and puts in what changed. Without it, the page is whole and still.
"use strict";
(() => {
  const lost = document.getElementById("lost");
  let wait = null;
  const next = () => {
    clearTimeout(wait);
    wait = setTimeout(look, document.body.dataset.live === "yes" ? 1500 : 6000);
  };
  const busy = () => {
    const focus = document.activeElement;
    const inForm = focus && focus.closest("main form") && focus.matches("input, select, textarea");
    return inForm || String(window.getSelection()).length > 0 || document.querySelector("main [open]");
  };
  async function look() {
    if (document.hidden || busy()) return next();
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (!answer.ok) throw new Error(answer.status);
      if (answer.redirected && new URL(answer.url).pathname !== location.pathname) return location.reload();
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const id of ["main", "now"]) {
        const old = document.getElementById(id), now = page.getElementById(id);
        if (old && now && old.innerHTML !== now.innerHTML) old.replaceWith(document.adoptNode(now));
      }
      document.body.dataset.live = page.body.dataset.live;
      document.title = page.title;
      lost.hidden = true;
    } catch {
      lost.hidden = false;
    }
    next();
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  next();
})();

/* What the search shows first: a page whose title says what was asked for, or the page of a name
   that was typed. The modules, which stand outside the navigation, come last. */
"use strict";
const asked = (new URLSearchParams(window.location.search).get("q") || "").toLowerCase();
const words = asked.split(/[\s,.?]+/).filter((word) => word.length > 1);

var Scorer = {
  score: ([docname, title, anchor, , score]) => {
    const text = title.toLowerCase();
    const name = text.split(".").pop();
    if (docname.startsWith("internals/")) return score - 40;
    if (docname.startsWith("reference/")) {
      const typed = text === asked || name.replaceAll("_", "") === asked.replace(/[\s_]/g, "");
      return typed ? score + 40 : score - (text.split(".").length > 4 ? 10 : 0);
    }
    const found = words.filter((word) => text.includes(word.replace(/s$/, ""))).length;
    if (!found) return score;
    const bonus = (20 * found) / words.length - title.length / 20;
    return score + bonus + (docname.startsWith("howto/") ? 4 : 0) - (anchor ? 3 : 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

import { h, show } from "/static/page.js";

show(document.getElementById("recordings"), "none", h("p", { class: "empty" }, h("b", {}, "No recordings. "), "Recording is off unless you switch it on."));

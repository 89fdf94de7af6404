// The deck is light or dark as the system is; ?theme=dark and the key D say otherwise.
const root = document.documentElement;
const asked = new URLSearchParams(location.search).get("theme");
const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
root.dataset.theme = asked === "dark" || asked === "light" ? asked : system;

Reveal.initialize({
  width: WIDTH, height: HEIGHT, margin: 0, center: false, hash: true, slideNumber: "c/t",
  transition: "none", controlsTutorial: false, plugins: [RevealNotes],
});
Reveal.addKeyBinding({ keyCode: 67, key: "C", description: "Show the code, or fold it" }, () => {
  const code = Reveal.getCurrentSlide().querySelector("details.code");
  if (code) code.open = !code.open;
});
Reveal.addKeyBinding({ keyCode: 68, key: "D", description: "Dark slides, or light ones" }, () => {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
});

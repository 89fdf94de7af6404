// Starts the page: tabs, theme, the list of models, and the four panels behind the tabs.

import { startTabs } from "./tabs.js";
import { startTheme } from "./theme.js";
import { refreshModels, startModelChoice } from "./models-list.js";
import { startWrite } from "./write.js";
import { startLook } from "./look/look.js";
import { startTune } from "./tune.js";
import { startModels } from "./models.js";

startTheme(document.getElementById("theme"));
startModelChoice(document.getElementById("model"), document.getElementById("problem"));
const panels = {
  write: startWrite(document.getElementById("write")),
  look: startLook(document.getElementById("look")),
  tune: startTune(document.getElementById("tune")),
  models: startModels(document.getElementById("models")),
};
startTabs(document.querySelector("[role=tablist]"), (name) => panels[name]?.shown?.());
refreshModels();

// Starts the page: theme, the list of models, the panels, and the tabs before them. Chat is there
// for models that were trained on conversations, and is then what the page opens with.

import { startAbout } from "./about.js";
import { startChat } from "./chat/chat.js";
import { startLook } from "./look/look.js";
import { startModels } from "./models.js";
import { chosenModel, entryOf, onModels, refreshModels, startModelChoice } from "./models-list.js";
import { offerTab, openAddress, startTabs } from "./tabs.js";
import { startTheme } from "./theme.js";
import { startTune } from "./tune/tune.js";
import { startWrite } from "./write/write.js";

startTheme(document.getElementById("theme"));
startModelChoice(document.getElementById("model"), document.getElementById("problem"));
startAbout(document.getElementById("about"));
const panels = {
  chat: startChat(document.getElementById("chat")),
  write: startWrite(document.getElementById("write")),
  look: startLook(document.getElementById("look")),
  tune: startTune(document.getElementById("tune")),
  models: startModels(document.getElementById("models")),
};
startTabs(document.querySelector("[role=tablist]"), (name, anew) => {
  panels[name]?.shown?.(anew);
});
onModels(() => offerTab("chat", Boolean(entryOf(chosenModel())?.chat)));
await refreshModels();
openAddress();

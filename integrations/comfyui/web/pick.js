// A click on a picture of Seedbed Pick writes its number into the node and runs the workflow again.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "seedbed.pick",
  nodeCreated(node) {
    if (node.comfyClass !== "SeedbedPick") return;
    let shown = null;
    Object.defineProperty(node, "imageIndex", {
      get: () => shown,
      set(index) {
        shown = index;
        const pick = node.widgets?.find((widget) => widget.name === "pick");
        if (!pick || !Number.isInteger(index) || node.imgs?.length < 2 || pick.value === index) return;
        pick.value = index;
        app.queuePrompt(0);
      },
    });
  },
});

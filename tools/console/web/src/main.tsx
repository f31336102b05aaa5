import "./style.css";

import { render } from "preact";

import { connect } from "./live";
import { followLinks } from "./route";
import { Shell } from "./shell";

document.addEventListener("click", followLinks);
connect();
render(<Shell />, document.getElementById("page") as HTMLElement);

"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

// An HTML element with its attributes and children; strings become text.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// The same for an element of an SVG.
function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A name from a file: its direction of writing stays its own.
const makeName = (text) => make("bdi", { class: "name" }, text);


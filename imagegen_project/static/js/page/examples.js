/** What to begin with: pictures that the built-in model drew, and prompts for the others. */

/** @typedef {{prompt: string, picture: string | null}} Example */

const SHAPES = [
  ["a large red heart in the centre on a white background", "red-heart"],
  ["a medium red triangle above a large blue square on a white background", "triangle-over-square"],
  ["a large green triangle in the centre on a black background", "green-triangle"],
  ["a large purple diamond in the centre on a yellow background", "purple-diamond"],
  ["a large orange square in the centre on a cyan background", "orange-square"],
  ["a large pink star in the centre on a blue background", "pink-star"],
];
const OTHERS = [
  "a lighthouse on a cliff at dusk, waves, soft light",
  "a red fox asleep in fresh snow, photograph",
  "a bowl of ripe apricots, oil painting, dark background",
  "a small wooden boat on a still lake, morning mist",
  "an old street in the rain, lamps, reflections, watercolour",
  "a glass greenhouse full of ferns, wide angle",
];

/** @param {string} family @returns {Example[]} */
export function examplesFor(family) {
  if (family !== "builtin") return OTHERS.map((prompt) => ({ prompt, picture: null }));
  return SHAPES.map(([prompt, name]) => ({ prompt, picture: `/static/examples/${name}.webp` }));
}

/** One line about what a family draws. @param {string} family */
export function drawsWhat(family) {
  return family === "builtin"
    ? "This model draws coloured shapes: circle, square, triangle, star, ring, cross, heart, diamond, in twelve colours."
    : "This model draws what you describe: say what is there, how it looks, and in which light.";
}

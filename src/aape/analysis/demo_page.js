for (const id of ["summary", "protocol", "commands"]) document.getElementById(id).textContent = data[id];
document.getElementById("scores").append(makeTable(data.scores[0], data.scores.slice(1).map((row) => row.map(makeName)), "Scores"));
document.getElementById("verdict").append(...data.verdict.map((text) => make("li", {}, text)));

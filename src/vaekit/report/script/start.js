// Makes the figures that the data in the page has something for.
if (data.runs.length) {
  closer(data.runs);
  reconstructions(data.runs, data.inputs);
}
const moving = data.runs.filter((run) => run.traversal);
if (moving.length) traversals(moving);
if (data.maps.length) latentMap(data.maps, data.points);

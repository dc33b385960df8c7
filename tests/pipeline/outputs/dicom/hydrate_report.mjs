// Read a structured report as OHIF does and print, as JSON, the measurements that come of it.
//
// node hydrate_report.mjs MODULES REPORT, with MODULES a node_modules folder that holds
// @cornerstonejs/adapters, @cornerstonejs/core and dcmjs. The plane of the image is that of the
// tests' phantom: 1.25 mm, first pixel at (0, -100, 100), sagittal.
import fs from 'node:fs';
import { pathToFileURL } from 'node:url';

const [modules, report] = process.argv.slice(2);
const from = (path) => import(pathToFileURL(`${modules}/${path}`));
const adapters = '@cornerstonejs/adapters/dist/esm/adapters/Cornerstone3D';
const log = console.log;
console.log = console.info = console.debug = (...words) => console.error(...words);

const { default: dcmjs } = await from('dcmjs/build/dcmjs.es.js');
const { metaData } = await from('@cornerstonejs/core/dist/esm/index.js');
// All tools that read reports, in the order in which the package registers them.
const { default: MeasurementReport } = await from(`${adapters}/MeasurementReport.js`);
for (const tool of ['ArrowAnnotate', 'Bidirectional', 'Angle', 'CobbAngle', 'CircleROI',
  'EllipticalROI', 'RectangleROI', 'Length', 'PlanarFreehandROI', 'Probe', 'UltrasoundDirectional',
  'KeyImage']) {
  await from(`${adapters}/${tool}.js`);
}

const plane = {
  frameOfReferenceUID: '1.2.3', rowCosines: [0, 1, 0], columnCosines: [0, 0, -1],
  rowPixelSpacing: 1.25, columnPixelSpacing: 1.25, imagePositionPatient: [0, -100, 100],
};
metaData.addProvider((type) => (type === 'imagePlaneModule' ? plane : undefined));
const imageIds = new Proxy({}, { get: (_, key) => `image:${String(key)}` });

const bytes = fs.readFileSync(report);
const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
const { DicomMessage, DicomMetaDictionary } = dcmjs.data;
const dataset = DicomMetaDictionary.naturalizeDataset(DicomMessage.readFile(buffer).dict);
const found = MeasurementReport.generateToolState(dataset, imageIds, metaData);

const plain = (code) => code && (Array.isArray(code) ? code[0] : code).CodeMeaning;
log(JSON.stringify(Object.entries(found).flatMap(([tool, measurements]) =>
  measurements.map((each) => ({
    tool,
    image: each.annotation.metadata.referencedImageId,
    label: each.annotation.data.label,
    finding: plain(each.finding),
    sites: each.findingSites.map(plain),
    corners: each.annotation.data.handles.points,
  })))));

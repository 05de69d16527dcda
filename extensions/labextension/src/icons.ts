import { LabIcon } from '@jupyterlab/ui-components';

export const tesseraIcon = new LabIcon({
  name: 'tessera:logo',
  svgstr:
    '<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 16 16"><g class="jp-icon3" fill="#616161"><rect x="1.5" y="1.5" width="6" height="6" rx="1"/><rect x="8.5" y="1.5" width="6" height="6" rx="1" opacity=".55"/><rect x="1.5" y="8.5" width="6" height="6" rx="1" opacity=".55"/><rect x="8.5" y="8.5" width="6" height="6" rx="1"/></g></svg>'
});

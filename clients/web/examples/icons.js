/** The page's icons, as paths on a grid of 24. */

/** @type {Record<string, string>} */
const PATHS = {
  mic: 'M12 3a3 3 0 0 0-3 3v6a3 3 0 0 0 6 0V6a3 3 0 0 0-3-3zM6 11.500a6 6 0 0 0 12 0M12 17.500V21',
  camera: 'M4 7h9a2 2 0 0 1 2 2v6a2 2 0 0 1-2 2H4a2 2 0 0 1-2-2V9a2 2 0 0 1 2-2zM15 11l6-3.500v9L15 13',
  heart: 'M12 20S4 15 4 9.500A4.200 4.200 0 0 1 12 7.500 4.200 4.200 0 0 1 20 9.500C20 15 12 20 12 20z',
  star: 'M12 3.500l2.600 5.400 5.900.8-4.300 4.100 1 5.900L12 16.900 6.800 19.700l1-5.900L3.500 9.700l5.900-.8z',
  hand: 'M8 12V5.500a1.500 1.500 0 0 1 3 0V11m0-1V4.500a1.500 1.500 0 0 1 3 0V11m0-4a1.500 1.500 0 0 1 3 0v7c0 4-2.500 6.500-6 6.500-3 0-4.500-1.500-6-4l-2-3.500c-.8-1.400 1.200-2.700 2.200-1.400L8 14',
  leave: 'M3 14c5-4.500 13-4.500 18 0l-2 3-4-1.500V13c-2-.6-4-.6-6 0v2.500L5 17z',
  link: 'M10 14a4 4 0 0 0 6 .500l3-3a4 4 0 0 0-5.700-5.700L12 7M14 10a4 4 0 0 0-6-.500l-3 3a4 4 0 0 0 5.700 5.700L12 17',
  send: 'M4 12l16-8-5 16-3.500-6.500zM11.500 13.500L20 4',
  plug: 'M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0zM12 17v4',
  chat: 'M4 5h16v11H10l-5 4v-4H4z',
  wave: 'M2 12h4l2.500-7 5 14L16 12h6',
  hourglass: 'M7 4h10M7 20h10M8 4c0 5 8 5 8 8s-8 3-8 8M16 4c0 5-8 5-8 8s8 3 8 8',
};

const SVG = 'http://www.w3.org/2000/svg';

/**
 * @param {string} name
 * @returns {SVGSVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', PATHS[name] ?? '');
  svg.append(path);
  return svg;
}

/** Draws the icons that the markup asks for. */
export function placeIcons() {
  for (const place of document.querySelectorAll('[data-icon]')) {
    place.replaceChildren(icon(place.getAttribute('data-icon') ?? ''));
  }
}

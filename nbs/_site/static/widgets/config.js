// ipywidgets on a page with no kernel, everything from this site.
addEventListener('load', () => {
  const base = new URL(document.documentElement.dataset.content_root + '_static/widgets/', location.href).href;
  // The widget manager speaks MathJax 2; the page has MathJax 3 where it has maths.
  if (window.MathJax && !MathJax.Hub) MathJax.Hub = {Queue: call => MathJax.typesetPromise?.([call[2]])};
  require.config({paths: {anywidget: base + 'anywidget'}});
  const script = document.createElement('script');
  script.src = base + 'embed-amd.js';
  script.setAttribute('data-jupyter-widgets-cdn', base);
  document.head.append(script);
});

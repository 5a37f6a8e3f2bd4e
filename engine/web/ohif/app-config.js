// OHIF's configuration for this server. Every address follows from where this script was loaded, so that a proxy may put
// the server under any prefix.

(() => {
  const script = document.currentScript;
  const root = new URL(".", script.src).pathname;
  const dicomweb = new URL("../dicom-web", script.src).pathname;

  /**
   * What OHIF decodes. The server sends what is stored in one of these as it is, and converts everything else, and RLE, of
   * which OHIF decodes only a part, to the first one: JPEG, JPEG lossless, JPEG-LS, JPEG 2000, HTJ2K.
   */
  const ACCEPT = [
    "multipart/related; type=application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1",
    ...Object.entries({ jpeg: [50, 51, 57, 70], jls: [80, 81], jp2: [90, 91], jphc: [201, 202, 203] }).flatMap(([type, syntaxes]) =>
      syntaxes.map((syntax) => `multipart/related; type=image/${type}; transfer-syntax=1.2.840.10008.1.2.4.${syntax}`)),
  ];

  /** The modes by the first part of their address. */
  const MODES = {
    viewer: "@ohif/mode-longitudinal", basic: "@ohif/mode-basic", segmentation: "@ohif/mode-segmentation", tmtv: "@ohif/mode-tmtv",
    "dynamic-volume": "@ohif/mode-preclinical-4d", usAnnotation: "@ohif/mode-ultrasound-pleura-bline",
  };
  const view = location.pathname.slice(root.length).split("/")[0];

  /** Where OHIF finds its own files. */
  window.PUBLIC_URL = new URL(script.dataset.files, document.baseURI).pathname;
  /** OHIF imports what this installation leaves out, the whole-slide viewer, through this function. */
  window.browserImportFunction = () =>
    Promise.reject(new Error("Whole slides cannot be shown by OHIF as it is installed here. Open them in the plain viewer."));
  /** OHIF ends this timer at the first image, and writes it to the console. */
  console.time("scriptToView");

  window.config = {
    name: "filmroom",
    routerBasename: root.replace(/\/$/, ""),
    extensions: [],
    modes: [],
    // No tour over the first image.
    customizationService: { "ohif.tours": { $set: [] } },
    investigationalUseDialog: { option: "configure", days: 90 },
    showStudyList: true,
    // A study is opened in one mode; OHIF's own list offers all of them.
    isModeNeeded: (mode) => !(view in MODES) || mode === MODES[view],
    showList: (search) => location.assign(`${root}${search && `?${search}`}`),
    maxNumberOfWebWorkers: Math.max(1, Math.min(4, (navigator.hardwareConcurrency || 2) - 1)),
    showWarningMessageForCrossOrigin: false,
    showCPUFallbackMessage: true,
    showLoadingIndicator: true,
    strictZSpacingForVolumeViewport: true,
    groupEnabledModesFirst: true,
    maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 25 },
    showErrorDetails: "always",
    httpErrorHandler: (error) => console.warn(`the server answered with ${error?.status ?? error}`),
    defaultDataSourceName: "filmroom",
    dataSources: [
      {
        namespace: "@ohif/extension-default.dataSourcesModule.dicomweb",
        sourceName: "filmroom",
        configuration: {
          friendlyName: "Filmroom",
          name: "filmroom",
          qidoRoot: dicomweb,
          wadoRoot: dicomweb,
          qidoSupportsIncludeField: true,
          imageRendering: "wadors",
          thumbnailRendering: "thumbnail",
          thumbnailRequestStrategy: "fetch",
          enableStudyLazyLoad: true,
          supportsFuzzyMatching: true,
          supportsWildcard: true,
          dicomUploadEnabled: true,
          singlepart: "bulkdata,video,pdf",
          bulkDataURI: { enabled: true },
          acceptHeader: ACCEPT,
        },
      },
    ],
  };
})();

/** Tips follow the theme. */
export const tipStyle = { fill: "var(--paper)", stroke: "var(--rule)", textPadding: 6, lineHeight: 1.25 };

/** REST transcoding and OpenAPI from the contract's descriptors. */
export {};

/** The contract: code generated from proto/, and its method options read as data. */
export {};

/// What a kind of fault means, for reports and for people who meet it for the first time.
extension Fault.Code {
    /// What is wrong, in a few words.
    public var title: String {
        switch self {
        case .missingTensor: "a tensor of the base is missing"
        case .extraTensor: "a tensor is left over"
        case .shapeMismatch: "a tensor has another shape"
        case .dtypeMismatch: "a tensor has another element type"
        case .baseChangedWithoutAdapter: "a tensor that no adapter touches was changed"
        case .wrongBase: "the model was merged into another base"
        case .adapterUnused: "a module of the adapter has no place in the base"
        case .wrongReplacement: "values that the adapter brings whole are not in the model"
        case .notFinite: "elements are infinite or NaN"
        case .notMerged: "the update was not added"
        case .mergedTwice: "the update was added twice"
        case .wrongSign: "the update was subtracted"
        case .wrongScale: "the update was added with another scale"
        case .transposed: "the transpose of the update was added"
        case .swappedModules: "another module's update was added"
        case .expertsPermuted: "experts have each other's updates"
        case .truncatedRank: "only some of the update's components were added"
        case .tiedHeadOverwritten: "embedding and head are still one matrix"
        case .elementsDiffer: "a few elements are not the result"
        case .wrongUpdate: "the weight is something else"
        case .roundedAway: "rounding erased the update"
        case .unknownName: "a name in the other layout is not known"
        case .quantizedBase: "the base is quantized"
        case .notRunnable: "the merged model does not run"
        case .gate: "a limit that was set is not kept"
        case .hashDiffers: "a tensor is not the one that was merged"
        case .configurationDiffers: "config.json describes another architecture"
        case .quantizationDiffers: "what is said of codes does not fit the weights"
        case .leftoverAdapter: "files of an adapter lie beside the merged model"
        case .fileNotFetched: "something stands in the place of a file"
        case .factorDiffers: "a factor is not what the run gives"
        case .scaleDiffers: "a scale is not that of the run"
        case .missingModule: "a module of the run is missing"
        case .extraModule: "a module is not in the run"
        }
    }

    /// The likely cause, and what to do.
    public var advice: String {
        switch self {
        case .missingTensor: "Save the whole state of the merged model, not a part of it."
        case .extraTensor: "Remove the tensor; factors or wrapped layers of the adapter were probably saved with the model."
        case .shapeMismatch: "Check that the base is the one that the model was merged from; a grown vocabulary must come with the adapter."
        case .dtypeMismatch: "Say --dtype if the merge was to convert; otherwise save the model in the base's type."
        case .baseChangedWithoutAdapter: "Find what else was trained or changed, or an error in the file; an adapter must bring what it changes."
        case .wrongBase: "Verify against the base that was merged from: another revision, a quantised copy or a fine-tuned model has other weights."
        case .adapterUnused: "The adapter belongs to another architecture, or its names are of a layout that the base does not have."
        case .wrongReplacement: "Merge again with a tool that keeps modules_to_save, trained biases and trained tokens."
        case .notFinite: "Do not ship the model: merge again, in a wider type if the sum overflowed."
        case .notMerged: "The tool skipped the module: its name, kind or layer was not matched. Merge again with one that reports what it skipped."
        case .mergedTwice: "The model was merged from one that already held the adapter, or merged and loaded with it. Merge from the base."
        case .wrongSign: "The adapter was unmerged from a model that did not hold it, or merged with a negative weight."
        case .wrongScale: "Compare alpha, rank and rsLoRA of adapter_config.json with what the tool used, and the weight that it was merged with."
        case .transposed: "The tool took a Conv1D or embedding for a linear layer, or the other way round."
        case .swappedModules: "Names were matched by order instead of by name, or layers were renumbered."
        case .expertsPermuted: "Experts were stacked in another order than the adapter's."
        case .truncatedRank: "The tool assumed one rank for all modules, or the factors were cut."
        case .tiedHeadOverwritten: "Give the head a matrix of its own and set tie_word_embeddings to false."
        case .elementsDiffer: "The file was damaged or edited after the merge. Merge again and compare hashes."
        case .wrongUpdate: "Check base, adapter and revision first; the message says how much of the update is in the weight."
        case .roundedAway:
            "Merge into a wider type (--dtype f32), or serve the adapter beside the base; it was trained too little to show in this type."
        case .unknownName: "Save base and merged model in one layout, and verify again."
        case .quantizedBase: "Verify against the unquantized model that was merged into."
        case .notRunnable: "See to the other faults first: tensors are missing, or config.json is that of another model."
        case .gate: "Merge with `oplora merge` for --max-ulp, into a wider type for --min-survival, or change the limit."
        case .hashDiffers: "The file was changed or damaged after the merge. Merge again, or verify with --base and --adapter to see what is wrong."
        case .configurationDiffers: "Copy config.json from the base."
        case .quantizationDiffers:
            "Where the model has full weights, take the field or file out; where it has the base's codes, take over what the base says."
        case .leftoverAdapter: "Remove the files: loaders would apply the adapter once more."
        case .fileNotFetched: "Fetch the file, with `git lfs pull` where it is a pointer of Git LFS, or copy it from the base."
        case .factorDiffers, .scaleDiffers, .missingModule, .extraModule: "Collapse the run again with `oplora collapse --verify`."
        }
    }
}

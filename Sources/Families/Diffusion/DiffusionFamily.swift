/// A family of diffusion models: the names of its modules in the files of their authors, and in those of diffusers.
///
/// The table of one family serves every layout of adapters and both layouts of bases.
public struct DiffusionFamily: Sendable {
    /// A module of the authors', and those of diffusers that lie in it, one below the other.
    public struct Row: Sendable {
        public let authors: String
        public let diffusers: [String]
        /// Whether the last part has all the rows that are left, instead of as many as the others.
        public let lastTakesTheRest: Bool
        /// Whether diffusers has the two halves of the rows the other way round.
        public let isExchanged: Bool
        /// Outputs for each input, where that tells the family from others with the same names.
        public let outputsPerInput: Double?

        public init(
            _ authors: String, _ diffusers: String..., lastTakesTheRest: Bool = false, isExchanged: Bool = false, outputsPerInput: Double? = nil
        ) {
            (self.authors, self.diffusers, self.lastTakesTheRest) = (authors, diffusers, lastTakesTheRest)
            (self.isExchanged, self.outputsPerInput) = (isExchanged, outputsPerInput)
        }
    }

    /// Rows that repeat in numbered blocks.
    public struct Group: Sendable {
        public let authors: String
        public let diffusers: String
        public let rows: [Row]
    }

    /// The names that the programs which read kohya's layout expect in it.
    public enum KohyaNames: Sendable {
        /// Those of either side.
        case any
        /// The authors', with fused projections.
        case authors
        /// The authors', for which there is no table here.
        case unknown
    }

    public let name: String
    /// What diffusers calls the denoiser.
    public let component: String
    /// diffusers' classes of it.
    public let classNames: Set<String>
    public let kohyaNames: KohyaNames
    public let groups: [Group]
    public let outer: [Row]
    /// Outer rows by which two whole models are matched, and no adapter is renamed: families that are not known here have the names, too.
    public let ofWholeModels: [Row]
    /// Groups, and rows of them, by their names in diffusers; all of one list together tell the family from others that diffusers has, or are of
    /// models that have the same names at their authors, too.
    public let marks: [[String]]

    public init(
        _ name: String, component: String = "transformer", classNames: Set<String>, kohyaNames: KohyaNames, groups: [Group] = [], outer: [Row] = [],
        ofWholeModels: [Row] = [], marks: [[String]] = []
    ) {
        (self.name, self.component, self.classNames, self.kohyaNames) = (name, component, classNames, kohyaNames)
        (self.groups, self.outer, self.ofWholeModels, self.marks) = (groups, outer, ofWholeModels, marks)
    }

    // MARK: U-Nets

    private static let uNetBlocks = ["down_blocks", "up_blocks", "mid_block", "input_blocks", "output_blocks", "middle_block"]
    private static let uNetOuter = ["conv_in", "conv_out", "time_embedding", "add_embedding", "time_embed", "label_emb"]

    public var isUNet: Bool { component == "unet" }

    /// Whether a module's path without its dots is one of a U-Net's.
    public static func isOfUNet(flattened path: String) -> Bool {
        uNetBlocks.contains { path.hasPrefix($0 + "_") }
            || uNetOuter.contains { path == $0 || path.hasPrefix($0 + "_linear_") || path.hasPrefix($0 + "_0") }
            || ["time_embed_2", "out_0", "out_2"].contains(path)
    }

    // MARK: Looking up

    /// Where a module stands in the table: the block's number, the row, and the part of it that is meant; `nil` for all of the row.
    public struct Place: Sendable {
        public let row: Row
        public let part: Int?
        /// What stands before the names of the row at the authors and in diffusers.
        public let authorsPrefix: String
        public let diffusersPrefix: String

        /// Whether the name is the authors', and another one in diffusers.
        public var isOfAuthors: Bool { part == nil && diffusersNames != [authorsName] }
        public var authorsName: String { authorsPrefix + row.authors }
        public var diffusersNames: [String] { row.diffusers.map { diffusersPrefix + $0 } }
    }

    public func place(of parts: [Substring]) -> Place? {
        if parts.count > 2, Int(parts[1]) != nil {
            let rest = parts[2...].joined(separator: ".")
            for group in groups where parts[0] == group.authors || parts[0] == group.diffusers {
                let (theirs, ours) = ("\(group.authors).\(parts[1]).", "\(group.diffusers).\(parts[1]).")
                if let place = place(of: rest, in: group.rows, parts[0] == group.authors, parts[0] == group.diffusers, theirs, ours) { return place }
            }
        }
        return place(of: parts.joined(separator: "."), in: outer, true, true, "", "")
    }

    /// Likewise, of two whole models.
    public func place(ofWholeModels parts: [Substring]) -> Place? {
        place(of: parts) ?? place(of: parts.joined(separator: "."), in: ofWholeModels, true, true, "", "")
    }

    private func place(of name: String, in rows: [Row], _ isAuthors: Bool, _ isOurs: Bool, _ theirs: String, _ ours: String) -> Place? {
        for row in rows {
            if isOurs, let part = row.diffusers.firstIndex(of: name) {
                return Place(
                    row: row, part: row.diffusers.count > 1 || row.authors != name ? part : nil, authorsPrefix: theirs, diffusersPrefix: ours)
            }
            if isAuthors, row.authors == name { return Place(row: row, part: nil, authorsPrefix: theirs, diffusersPrefix: ours) }
        }
        return nil
    }

    /// A module as far as it tells the family.
    public struct Sighting: Sendable {
        public let parts: [Substring]
        public let outputs: Int
        public let inputs: Int

        public init(parts: [Substring], outputs: Int, inputs: Int) {
            (self.parts, self.outputs, self.inputs) = (parts, outputs, inputs)
        }
    }

    /// How many of the modules are in the table; none where one is in a group of blocks and not known there.
    private func knownCount(_ modules: [Sighting]) -> Int {
        var count = 0
        for module in modules {
            if place(of: module.parts) != nil {
                count += 1
            } else if module.parts.count > 2, Int(module.parts[1]) != nil,
                groups.contains(where: { $0.authors == module.parts[0] || $0.diffusers == module.parts[0] })
            {
                return 0
            }
        }
        return count
    }

    /// The families that have all these names; several where they do not tell them apart.
    public static func candidates(_ modules: [Sighting]) -> [DiffusionFamily] {
        if modules.contains(where: { uNetBlocks.contains(String($0.parts[0])) }) { return [uNet] }
        let counts = known.map { $0.knownCount(modules) }
        // Of those that contradict none of the names, the ones that know the most.
        let most = counts.max() ?? 0
        let named = most == 0 ? [] : zip(known, counts).filter { $1 == most }.map(\.0)
        let fitting = named.filter { family in
            modules.allSatisfy { module in
                guard let place = family.place(of: module.parts), place.part == nil || place.row.diffusers.count == 1,
                    let ratio = place.row.outputsPerInput
                else { return true }
                return Double(module.outputs) == ratio * Double(module.inputs)
            }
        }
        return fitting.isEmpty ? named : fitting
    }

    /// Whether names tell the family for certain: each has its place, and some of them no other family has, one without a table here included.
    public func isCertain(by modules: [Sighting]) -> Bool {
        if isUNet { return true }
        var seen: Set<String> = []
        var isOfAuthors = false
        for module in modules {
            guard let place = place(of: module.parts) else { return false }
            guard !place.diffusersPrefix.isEmpty, let group = place.diffusersPrefix.split(separator: ".").first else { continue }
            // What diffusers calls otherwise has a name that the authors alone gave.
            if place.isOfAuthors { isOfAuthors = true }
            seen.insert(String(group))
            seen.insert("\(group).\(place.row.diffusers[place.part ?? 0])")
        }
        return isOfAuthors || marks.contains { $0.allSatisfy(seen.contains) }
    }

    /// The family of a class of diffusers; one without a table for a class that is not known.
    public static func of(className: String) -> DiffusionFamily {
        if let family = ([uNet] + known).first(where: { $0.classNames.contains(className) }) { return family }
        return DiffusionFamily(
            className, component: className.contains("UNet") ? "unet" : "transformer", classNames: [className],
            kohyaNames: className.contains("UNet") ? .any : .unknown)
    }
}

import Testing

@testable import Families

/// The rules that every table of a diffusion model keeps.
struct DiffusionFamilyTests {
    static let families = DiffusionFamily.known + [DiffusionFamily.uNet]

    @Test func noNameAndNoClassIsInTwoTables() {
        #expect(Set(Self.families.map(\.name)).count == Self.families.count)
        let classes = Self.families.flatMap(\.classNames)
        #expect(Set(classes).count == classes.count)
        for family in Self.families {
            for name in family.classNames { #expect(DiffusionFamily.of(className: name).name == family.name) }
        }
    }

    @Test(arguments: families.map(\.name))
    func everyNameIsFoundInItsOwnTable(_ name: String) throws {
        let family = try #require(Self.families.first { $0.name == name })
        for group in family.groups {
            for row in group.rows {
                #expect(!row.diffusers.isEmpty)
                let own = row.diffusers.map { "\(group.diffusers).7.\($0)" }
                for name in own {
                    let place = try #require(family.place(of: name.split(separator: ".")))
                    #expect(place.diffusersNames.contains(name))
                }
                let theirs = "\(group.authors).7.\(row.authors)"
                #expect(try #require(family.place(of: theirs.split(separator: "."))).authorsName == theirs)
            }
        }
        for row in family.outer {
            #expect(try #require(family.place(of: row.authors.split(separator: "."))).authorsName == row.authors)
        }
    }

    @Test(arguments: families.map(\.name))
    func marksAreNamesOfGroups(_ name: String) throws {
        let family = try #require(Self.families.first { $0.name == name })
        let groups = Set(family.groups.map(\.diffusers))
        for mark in family.marks.flatMap(\.self) {
            #expect(groups.contains(String(mark.prefix { $0 != "." })), "\(mark)")
        }
    }
}
